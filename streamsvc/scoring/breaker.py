"""A circuit breaker: whoever failed repeatedly is not asked until a probe has succeeded."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from streamsvc.errors import StreamsvcError

__all__ = ["FIRST_PAUSE_S", "Breaker"]

FIRST_PAUSE_S = 0.5
"""Until the first probe; each further one waits twice as long as the one before."""
LONGEST_PAUSE_S = 10.0

_log = structlog.get_logger(__name__)


class Breaker:
    """Stands before one server. Belongs to one event loop."""

    def __init__(
        self,
        name: str,
        probe: Callable[[], Awaitable[None]],
        *,
        failures: int,
        pause_s: float = FIRST_PAUSE_S,
        longest_pause_s: float = LONGEST_PAUSE_S,
    ) -> None:
        """Opens at so many failures in a row; `probe` raises StreamsvcError while the server is
        away."""
        self._name = name
        self._probe = probe
        self._most_failures = failures
        self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._failures = 0
        self._recovery: asyncio.Task[None] | None = None

    @property
    def available(self) -> bool:
        """Whether the server is to be asked."""
        return self._recovery is None

    def succeeded(self) -> None:
        """A call went well."""
        self._failures = 0

    def failed(self, error: StreamsvcError) -> None:
        """A call failed."""
        self._failures += 1
        if self._failures >= self._most_failures:
            self.leave_alone(error)

    def leave_alone(self, error: StreamsvcError) -> None:
        """Do not ask the server until it answers a probe."""
        if self._recovery is None:
            _log.warning("server_left_alone", server=self._name, error=str(error))
            self._recovery = asyncio.create_task(self._recover())

    async def close(self) -> None:
        """End the probe."""
        if self._recovery is not None:
            self._recovery.cancel()
            await asyncio.wait([self._recovery])

    async def _recover(self) -> None:
        pause_s = self._pause_s
        while True:
            await asyncio.sleep(pause_s)
            try:
                await self._probe()
                break
            except StreamsvcError as error:
                _log.info("server_still_away", server=self._name, error=str(error))
                pause_s = min(2 * pause_s, self._longest_pause_s)
        _log.info("server_back", server=self._name)
        self._failures = 0
        self._recovery = None
