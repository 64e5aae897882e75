"""From a batch of request records to their answers: decode, freshness, features, model.

What blocks or computes runs on a thread, a batch at a time; the event loop waits and asks the
model server.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import structlog

from streamsvc.columns import F64, I64, Columns
from streamsvc.definitions.plan import Route
from streamsvc.errors import UnavailableError
from streamsvc.events.wire import Reject
from streamsvc.scoring.breaker import Breaker
from streamsvc.scoring.fallback import Scores
from streamsvc.scoring.features import Batch, FeatureReads
from streamsvc.scoring.freshness import Freshness, Watch
from streamsvc.scoring.requests import Requests, rejects_by_chunk
from streamsvc.scoring.traffic import Traffic, Variant
from streamsvc.scoring.vectors import Vectors
from streamsvc.transport.chunk import Chunk

__all__ = ["Answers", "Asked", "Clock", "Pipeline", "Scored"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_STORE_RETRY_S = 0.05
_STORE_PROBE_S = 0.5
"""A store that is back is missed by every request, so it is looked for often."""
_THREAD_PATIENCE_S = 0.02
"""What a batch waits for its own events on the thread that decoded it. That is long enough when all
is well; a longer wait, and at least half of any, leaves the thread to others."""


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, as the pipeline sees it."""

    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """n requests with their vectors, on their way to a model."""

    requests: Requests
    vectors: Vectors
    stale_ms: I64
    """Of the rows themselves, or of what the features were known to lack: the greater."""
    queue_ms: I64
    """From a request's Kafka timestamp until work on its batch began."""
    stage_ms: Mapping[str, float]
    """The stages that all of them went through together."""

    def of(self, variant: Variant, rows: I64 | None) -> Asked:
        """A variant's requests (None: all), with vectors as its model takes them."""
        asked = self
        if rows is not None:
            asked = Asked(
                self.requests.take(rows),
                self.vectors.take(rows),
                self.stale_ms[rows],
                self.queue_ms[rows],
                self.stage_ms,
            )
        if variant.columns is None:
            return asked
        return replace(asked, vectors=asked.vectors.select(variant.columns))


@dataclass(frozen=True, slots=True, eq=False)
class Answers:
    """What one variant answered to its requests of a batch."""

    variant: Variant
    rows: I64 | None
    """Which requests of the batch they are; None for all of them, in order."""
    asked: Asked
    scores: Scores
    model_ms: float
    """How long they waited for the model."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """A batch with its answers."""

    rejects: list[tuple[Chunk, list[Reject]]]
    """Records that got no answer, by the chunk that they came in."""
    asked: Asked
    """All requests; vectors hold what any variant takes."""
    answers: Sequence[Answers]
    """Of every variant that had a request; together they hold each request once."""
    blind: bool
    """The store was away, or all came too late: the vectors hold nothing, and no model was asked.
    """

    @property
    def requests(self) -> Requests:
        """The requests that were answered."""
        return self.asked.requests


class Pipeline:
    """Scores batches of one service. Batches may overlap; belongs to one event loop."""

    def __init__(
        self,
        route: Route,
        features: FeatureReads,
        watch: Watch,
        traffic: Traffic,
        threads: Executor,
        clock: Clock,
    ) -> None:
        """`threads` runs what `features` does."""
        self.route = route
        self.traffic = traffic
        self.freshness = Freshness(watch)
        self._features = features
        self._threads = threads
        self._clock = clock
        self._store = Breaker(
            "online store",
            lambda: self._on_thread(features.probe),
            failures=1,
            longest_pause_s=_STORE_PROBE_S,
        )

    async def score(self, chunks: Sequence[Chunk]) -> Scored:
        """Answers to every request in chunks of the request topic.

        Raises ConfigurationError or IntegrityError where going on makes no sense; a store or a
        model server that is away ends in the fallbacks.
        """
        return await self._score(chunks, self.route.deadline_ms, fresh=True)

    async def warm(self, chunk: Chunk, deadline_ms: int) -> Scored:
        """Score a chunk that nobody waits for: a deadline of its own, no wait for freshness."""
        return await self._score([chunk], deadline_ms, fresh=False)

    async def shadow(self, variant: Variant, scored: Scored) -> Answers | None:
        """What a shadow says to its share of a batch, within a deadline of its own; None if it has
        no share in it."""
        rows = await self._on_thread(lambda: self.traffic.shadowed(self._entity(scored.asked)))
        if not len(rows):
            return None
        asked = await self._on_thread(lambda: scored.asked.of(variant, rows))
        n = len(scored.requests)
        deadline = np.full(n, self._clock.monotonic() + self.route.deadline_ms / 1e3)
        return await self._answers(variant, rows, asked, deadline, blind=False)

    async def close(self) -> None:
        """End waits."""
        await self._store.close()
        await self.freshness.close()

    async def _score(self, chunks: Sequence[Chunk], deadline_ms: int, *, fresh: bool) -> Scored:
        clock = self._clock.monotonic
        began, now_ms = clock(), self._clock.wall_ms()
        lagging = self.freshness.lagging

        def patience_s(requests: Requests) -> float | None:
            age_ms = now_ms - requests.received_ms
            if age_ms.min() >= deadline_ms or not self._store.available:
                return None  # shed: whatever is read for them comes too late
            left_ms = deadline_ms - float(age_ms.max())
            return min(_THREAD_PATIENCE_S, self.route.freshness_wait_ms / 2e3, left_ms / 2e3)

        batch = await self._on_thread(
            lambda: self._features.start(chunks, now_ms, patience_s, lagging, fresh=fresh)
        )
        age_ms = now_ms - batch.requests.received_ms
        deadline = began + (deadline_ms - age_ms) / 1e3
        in_time = bool((deadline > began).any())
        waited_s = await self._await_features(batch, deadline) if in_time else 0.0
        if batch.vectors is not None and batch.vectors.failed:
            failed = batch.vectors.failed
            rows = np.setdiff1d(np.arange(len(deadline)), list(failed))
            batch.keep(rows, failed)
            deadline, age_ms = deadline[rows], age_ms[rows]
        read = clock()
        requests, vectors = batch.requests, batch.vectors
        blind = vectors is None
        if vectors is None:
            vectors = self._features.no_vectors(len(requests))
        asked = Asked(
            requests,
            vectors,
            stale_ms=np.maximum(vectors.stale_ms, batch.lag_ms()),
            queue_ms=np.maximum(age_ms, 0),
            stage_ms={
                "decode": batch.decode_ms,
                "freshness": 1e3 * waited_s,
                "features": max(1e3 * (read - began - waited_s) - batch.decode_ms, 0.0),
            },
        )
        if self.traffic.divided and len(requests):
            parts = await self._on_thread(lambda: self._divided(asked))
        else:
            champion = self.traffic.champion
            parts = [(champion, None, asked.of(champion, None))]
        answers = [self._answers(*part, deadline, blind=blind) for part in parts]
        return Scored(
            rejects=rejects_by_chunk(chunks, batch.rejects),
            asked=asked,
            answers=[await answers[0]] if len(answers) == 1 else await asyncio.gather(*answers),
            blind=blind,
        )

    def _entity(self, asked: Asked) -> Columns:
        fields = self._features.inputs.entity_fields
        return {key: asked.requests.columns[field] for key, field in fields.items()}

    def _divided(self, asked: Asked) -> list[tuple[Variant, I64 | None, Asked]]:
        split = self.traffic.split(self._entity(asked))
        return [(variant, rows, asked.of(variant, rows)) for variant, rows in split]

    async def _answers(
        self, variant: Variant, rows: I64 | None, asked: Asked, deadline: F64, *, blind: bool
    ) -> Answers:
        """A variant's answers; the default for all where its vectors hold nothing (`blind`)."""
        if rows is not None:
            deadline = deadline[rows]
        began = self._clock.monotonic()
        if blind:
            scores = variant.ladder.give_up(deadline <= began)
        else:
            scores = await variant.ladder.score(asked.vectors.matrix, deadline)
        model_ms = 1e3 * (self._clock.monotonic() - began)
        return Answers(variant, rows, asked, scores, model_ms)

    async def _await_features(self, batch: Batch, deadline: F64) -> float:
        """See that the batch has vectors that are as fresh as can be had; the seconds waited.

        Without a store for half of the time until the first deadline, the batch stays without
        vectors, and so do the next ones until the store is back.
        """
        clock = self._clock.monotonic
        last, needs, waited_s = float(deadline.min()), batch.all_needs, batch.waited_s
        patient_until = (clock() + last) / 2
        while True:
            if batch.markers is None and not self._store.available:
                return waited_s
            try:
                if batch.markers is None:
                    await self._on_thread(lambda: self._features.look(batch))
                assert batch.markers is not None
                waiting = self.freshness.worth_waiting(needs, batch.markers)
                mark = clock()
                patience_s = self.route.freshness_wait_ms / 1e3 - waited_s
                most_s = min(patience_s, (last - mark) / 2)
                if waiting and most_s > 0:
                    seen = await self.freshness.wait(waiting, most_s)
                    batch.markers = {**batch.markers, **seen}
                    batch.vectors = None
                    waited_s += clock() - mark
                if batch.vectors is None:
                    await self._on_thread(lambda: self._features.read(batch))
                return waited_s
            except UnavailableError as error:
                batch.markers, batch.vectors = None, None
                if clock() >= patient_until:
                    self._store.leave_alone(error)
                    return waited_s
                await asyncio.sleep(_STORE_RETRY_S)

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
