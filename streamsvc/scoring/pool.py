"""Several servers of one model: they take turns, and one stands in for another.

gRPC's own `round_robin` leaves a server in turn that is connected and does not answer, and gives a
call to one server alone. Here each has a circuit breaker, and a call that one server failed is
given to the next in what is left of its time. See docs/decisions/086-one-breaker-per-triton.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from streamsvc.errors import UnavailableError
from streamsvc.scoring.fallback import Endpoint
from streamsvc.scoring.model import F32

__all__ = ["Pool"]


class Pool:
    """Endpoints of one model version, as if they were one."""

    def __init__(self, endpoints: Sequence[Endpoint], clock: Callable[[], float]) -> None:
        """`clock` is monotonic, in seconds."""
        self._endpoints = tuple(endpoints)
        self._clock = clock
        self._turn = 0

    @property
    def name(self) -> str:
        """What a prediction says when one of them answered in another rung's stead."""
        return self._endpoints[0].name

    async def predict(self, inputs: F32, timeout_s: float) -> F32:
        """Scores from the next server in turn, or from the one after it if that fails.

        Each gets half of the time that is left, the last one all of it. Raises UnavailableError
        when none has answered.
        """
        end = self._clock() + timeout_s
        turns = self._in_turn()
        for at, endpoint in enumerate(turns):
            left_s = end - self._clock()
            last = at == len(turns) - 1
            try:
                return await endpoint.predict(inputs, left_s if last else left_s / 2)
            except UnavailableError:
                if last:
                    raise
        raise UnavailableError(f"No server of {self.name} is asked for now: all failed repeatedly")

    async def prove(self, *, strict: bool = False) -> None:
        """Ask all of them to get ready, one after the other; see `Endpoint.prove`."""
        for endpoint in self._endpoints:
            await endpoint.prove(strict=strict)

    async def close(self) -> None:
        """Close every one."""
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))

    def _in_turn(self) -> list[Endpoint]:
        first = self._turn
        self._turn = (first + 1) % len(self._endpoints)
        return [e for e in self._endpoints[first:] + self._endpoints[:first] if e.available]
