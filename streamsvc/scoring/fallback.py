"""The fallback ladder: every request gets an answer by its deadline, and the answer says whose.

    model servers in turn  →  the same model in this process  →  the route's declared default

A server that fails is left alone until a probe in the background has succeeded, so a dead Triton
costs its timeout to a few batches and not to every one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from streamsvc.columns import F64, U8, Bools
from streamsvc.errors import CheckFailedError, UnavailableError
from streamsvc.models.artifact import ModelCard
from streamsvc.models.golden import check_golden
from streamsvc.scoring.breaker import FIRST_PAUSE_S, Breaker
from streamsvc.scoring.cache import ScoreCache
from streamsvc.scoring.model import F32, ModelServer
from streamsvc.scoring.shared_scores import SharedScores

__all__ = ["DEFAULT", "Endpoint", "Ladder", "Rung", "Scores"]

DEFAULT = "default"

_FAILURES_TO_OPEN = 3
_SHARED_SHARE = 0.1
"""Of the time that is left: what a look-up in the shared cache may take."""
_PROBE_TIMEOUT_S = 2.0
_LEAST_TIMEOUT_S = 0.02
_LEAST_PROBE_S = 0.1


@dataclass(frozen=True, slots=True)
class Scores:
    """Answers to n requests; arrays have shape (n,) but for `values`."""

    values: F32
    """Shape (n, 1), or (n, classes)."""
    step: U8
    """The rung that answered: an index into `Ladder.names`."""
    late: Bools
    """The deadline had passed before any rung could answer."""
    failed: Bools
    """A rung that was asked had no usable answer."""
    cached: int = 0
    """How many of them no rung was asked for: their scores were known,"""
    shared: int = 0
    """and of these, how many to other workers only."""


class Rung(Protocol):
    """Who can be asked for the scores of one model version."""

    @property
    def name(self) -> str:
        """What a prediction says when this rung answered in another's stead."""
        ...

    async def predict(self, inputs: F32, timeout_s: float) -> F32:
        """Finite scores of n vectors, (n, 1) or (n, classes). Raises UnavailableError."""
        ...

    async def prove(self, *, strict: bool = False) -> None:
        """Get ready to answer; see `Endpoint.prove`."""
        ...

    async def close(self) -> None:
        """Let go of connections."""
        ...


class Endpoint:
    """A model server behind a circuit breaker."""

    def __init__(
        self,
        server: ModelServer,
        card: ModelCard | None = None,
        *,
        pause_s: float = FIRST_PAUSE_S,
    ) -> None:
        """With a card, a server that is asked to get ready must answer its golden vectors."""
        self.server = server
        self._card = card
        self._given_s = 0.0
        """The most that a call was given which failed in this row of failures."""
        self._breaker = Breaker(
            server.name, self._get_ready, failures=_FAILURES_TO_OPEN, pause_s=pause_s
        )

    @property
    def name(self) -> str:
        """The server's."""
        return self.server.name

    @property
    def available(self) -> bool:
        """Whether calls go through: not from the third failure in a row to the next good probe."""
        return self._breaker.available

    async def predict(self, inputs: F32, timeout_s: float) -> F32:
        """The server's answer. Raises UnavailableError, at once while the server is left alone."""
        if not self.available:
            raise UnavailableError(f"{self.server.name} failed repeatedly and is not asked for now")
        try:
            found = await self.server.predict(inputs, timeout_s)
            if not np.isfinite(found).all():
                raise UnavailableError(f"{self.server.name} answered with NaN or infinity")
        except UnavailableError as error:
            self._given_s = max(self._given_s, timeout_s)
            self._breaker.failed(error)
            raise
        self._breaker.succeeded()
        self._given_s = 0.0
        return found

    async def prove(self, *, strict: bool = False) -> None:
        """Ask the server to get ready; one that cannot is left alone from the start.

        Raises ConfigurationError if it does not let us, and, if `strict`, CheckFailedError where it
        is there and cannot run the model as it should.
        """
        try:
            await self._get_ready()
        except UnavailableError as error:
            self._breaker.leave_alone(error)
        except CheckFailedError as error:
            if strict:
                raise
            self._breaker.leave_alone(error)

    async def close(self) -> None:
        """End the probe and the server's connections."""
        await self._breaker.close()
        await self.server.close()

    async def _get_ready(self) -> None:
        # A server that answers, and too slowly for the calls that failed, is not back.
        timeout_s = _PROBE_TIMEOUT_S
        if self._given_s:
            timeout_s = min(timeout_s, max(_LEAST_PROBE_S, self._given_s))
        await self.server.recover(timeout_s)
        if self._card is not None and (golden := self._card.golden).inputs:
            answered = await self.server.predict(golden.matrix(), timeout_s)
            check_golden(self._card, lambda _: answered, self.server.name)
        self._given_s = 0.0


class Ladder:
    """Rungs of one model version in the order in which they are asked, and the default below.

    `names[step]` is what a prediction says about its origin: None for the first rung.
    """

    def __init__(
        self,
        rungs: Sequence[Rung],
        default: Sequence[float],
        clock: Callable[[], float],
        cache: ScoreCache | None = None,
        shared: SharedScores | None = None,
    ) -> None:
        """`default` has as many scores as the model gives a vector. No rung is asked about a vector
        that is in one of the caches, which are of this model version."""
        self.rungs = tuple(rungs)
        self.names: tuple[str | None, ...] = (None, *(r.name for r in self.rungs[1:]), DEFAULT)
        self._default = np.array(default, np.float32)
        self._clock = clock
        self._cache = cache
        self._shared = shared

    async def score(self, inputs: F32, deadline: F64) -> Scores:
        """Scores for every row of `inputs`, (n, features).

        `deadline` has shape (n,), seconds on the ladder's clock. A row whose deadline has passed
        when a rung is about to be asked goes to the default. A rung gets at most half of the time
        that is left, so that the next one can still answer in time.
        """
        if self._cache is None and self._shared is None:
            return await self._ask(inputs, deadline)
        known, values, shared = await self._known(inputs, deadline)
        rows = np.flatnonzero(~known)
        unknown = inputs[rows]
        asked = await self._ask(unknown, deadline[rows])
        by_model = asked.step < len(self.rungs)
        if self._cache is not None:
            self._cache.put(unknown[by_model], asked.values[by_model])
        if self._shared is not None:
            self._shared.offer(unknown[by_model], asked.values[by_model])
        step = np.zeros(len(inputs), np.uint8)
        late, failed = (np.zeros(len(inputs), np.bool_) for _ in range(2))
        values[rows], step[rows] = asked.values, asked.step
        late[rows], failed[rows] = asked.late, asked.failed
        return Scores(values, step, late, failed, len(inputs) - len(rows), shared)

    async def close(self) -> None:
        """End what the shared cache has under way; rungs are others' to close."""
        if self._shared is not None:
            await self._shared.close()

    async def _known(self, inputs: F32, deadline: F64) -> tuple[Bools, F32, int]:
        """Which vectors are known, in time; their scores; how many of these to other workers."""
        now = self._clock()
        in_time: Bools = deadline > now
        known, values = np.zeros(len(inputs), np.bool_), self._defaults(len(inputs))
        if self._cache is not None:
            known, values = self._cache.find(inputs)
            known &= in_time
        rows = np.flatnonzero(in_time & ~known)
        if self._shared is None or not len(rows):
            return known, values, 0
        left_s = float(deadline[rows].min()) - now
        found = await self._shared.find(inputs[rows], left_s * _SHARED_SHARE)
        if found is None:
            return known, values, 0
        theirs = np.flatnonzero(found[0])
        known[rows[theirs]], values[rows[theirs]] = True, found[1][theirs]
        if self._cache is not None:
            self._cache.put(inputs[rows[theirs]], found[1][theirs])
        return known, values, len(theirs)

    async def _ask(self, inputs: F32, deadline: F64) -> Scores:
        n = len(inputs)
        values = self._defaults(n)
        step = np.full(n, len(self.names) - 1, np.uint8)
        late = np.zeros(n, np.bool_)
        failed = np.zeros(n, np.bool_)
        for at, rung in enumerate(self.rungs):
            now = self._clock()
            alive: Bools = deadline > now
            late = ~alive
            if not alive.any():
                break
            left_s = float(deadline[alive].min()) - now
            everyone = bool(alive.all())
            try:
                found = await rung.predict(
                    inputs if everyone else inputs[alive], max(left_s / 2, _LEAST_TIMEOUT_S)
                )
            except UnavailableError:
                # Counted by the rung that answers instead; the endpoint logs when it gives up.
                failed |= alive
                continue
            if everyone:
                return Scores(found, np.full(n, at, np.uint8), late, failed)
            values[alive] = found
            step[alive] = at
            break
        return Scores(values, step, late, failed)

    def give_up(self, late: Bools) -> Scores:
        """The default for requests that have no vector to ask a model about."""
        n = len(late)
        return Scores(
            self._defaults(n),
            np.full(n, len(self.names) - 1, np.uint8),
            late,
            np.zeros(n, np.bool_),
        )

    def _defaults(self, n: int) -> F32:
        return np.tile(self._default, (n, 1))
