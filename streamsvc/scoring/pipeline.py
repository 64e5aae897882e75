"""From a batch of request records to prediction records: the stages of one service, in order.

Everything that blocks or computes runs on a thread, a batch at a time; the event loop only waits.
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

from streamsvc.columns import F64, I64
from streamsvc.definitions.plan import Route
from streamsvc.errors import UnavailableError
from streamsvc.events.wire import Reject
from streamsvc.scoring.entities import Entities, entities_of
from streamsvc.scoring.fallback import Ladder, Scores
from streamsvc.scoring.fetch import StoreReads
from streamsvc.scoring.freshness import Freshness
from streamsvc.scoring.inputs import ServiceInputs
from streamsvc.scoring.needs import Markers, Needs, needs_of
from streamsvc.scoring.requests import RequestReader, Requests, merged, rejects_by_chunk
from streamsvc.scoring.vectors import Vectors, assemble
from streamsvc.store.row import Rows
from streamsvc.transport.chunk import Chunk

__all__ = ["Clock", "Pipeline", "Scored"]

T = TypeVar("T")

_log = structlog.get_logger(__name__)

_STORE_RETRY_S = 0.05
_WARM_DEADLINE_MS = 60_000
_LATER_STAGES = ("freshness", "features", "model")


@dataclass(frozen=True, slots=True)
class Clock:
    """Time, as the pipeline sees it."""

    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    monotonic: Callable[[], float] = time.monotonic


@dataclass(slots=True, eq=False)
class Scored:
    """A batch with its answers."""

    rejects: list[tuple[Chunk, list[Reject]]]
    """Records that got no answer, by the chunk that they came in."""
    requests: Requests
    vectors: Vectors
    scores: Scores
    stale_ms: I64
    """Of the rows themselves, or of what the features were known to lack: the greater."""
    queue_ms: I64
    """From a request's Kafka timestamp until work on its batch began."""
    stage_ms: dict[str, float]


@dataclass(slots=True, eq=False)
class _Prepared:
    rejects: list[Reject]
    row: I64
    """Row of the merged chunks that each request is."""
    requests: Requests
    entities: dict[str, Entities]
    needs: list[Needs]
    markers: Markers


class Pipeline:
    """Scores batches of one service. Batches may overlap; belongs to one event loop."""

    def __init__(
        self,
        route: Route,
        inputs: ServiceInputs,
        reader: RequestReader,
        reads: StoreReads,
        ladder: Ladder,
        state_partitions: Mapping[str, int],
        threads: Executor,
        clock: Clock | None = None,
    ) -> None:
        """`state_partitions` says for each windowed view how many there are."""
        self.route = route
        self.inputs = inputs
        self.ladder = ladder
        self._reader = reader
        self._reads = reads
        self._state_partitions = state_partitions
        self._threads = threads
        self._clock = clock or Clock()
        self.freshness = Freshness(lambda ids: self._on_thread(lambda: reads.markers(ids)))

    async def score(self, chunks: Sequence[Chunk]) -> Scored:
        """Answers to every request in chunks of the request topic.

        Raises ConfigurationError or IntegrityError where going on makes no sense; a store or a
        model server that is away ends in the fallbacks.
        """
        return await self._score(chunks, self.route.deadline_ms, fresh=True)

    async def warm(self, chunk: Chunk) -> Scored:
        """Score a chunk that nobody waits for: no deadline to speak of, no wait for freshness."""
        return await self._score([chunk], _WARM_DEADLINE_MS, fresh=False)

    async def _score(self, chunks: Sequence[Chunk], deadline_ms: int, *, fresh: bool) -> Scored:
        clock = self._clock.monotonic
        started, now_ms = clock(), self._clock.wall_ms()
        prepared = await self._on_thread(lambda: self._prepare(chunks, now_ms))
        if not fresh:
            prepared.needs = []
        age_ms = now_ms - prepared.requests.received_ms
        deadline = started + (deadline_ms - age_ms) / 1e3
        stage_ms = {"decode": 1e3 * (clock() - started), **dict.fromkeys(_LATER_STAGES, 0.0)}

        mark = clock()
        rows = None
        if len(deadline):
            rows = await self._features(prepared, deadline, stage_ms)
        if rows is None:
            vectors = self._no_vectors(prepared)
            scores = self.ladder.give_up(deadline <= clock())
        else:
            vectors = await self._on_thread(lambda: self._assemble(prepared, rows))
            if vectors.failed:
                keep = np.setdiff1d(np.arange(len(deadline)), list(vectors.failed))
                prepared = _without(prepared, vectors.failed, keep)
                vectors, deadline, age_ms = vectors.take(keep), deadline[keep], age_ms[keep]
            stage_ms["features"] = 1e3 * (clock() - mark) - stage_ms["freshness"]
            mark = clock()
            scores = await self.ladder.score(vectors.matrix, deadline)
            stage_ms["model"] = 1e3 * (clock() - mark)
        return Scored(
            rejects=rejects_by_chunk(chunks, prepared.rejects),
            requests=prepared.requests,
            vectors=vectors,
            scores=scores,
            stale_ms=np.maximum(vectors.stale_ms, _lag_ms(prepared)),
            queue_ms=np.maximum(age_ms, 0),
            stage_ms=stage_ms,
        )

    async def close(self) -> None:
        """End waits and model servers."""
        await self.freshness.close()
        await self.ladder.close()

    def _prepare(self, chunks: Sequence[Chunk], now_ms: int) -> _Prepared:
        chunk, partition = merged(chunks)
        requests, rejects, row = self._reader.read(chunk, partition, now_ms)
        entities = {
            view.name: entities_of(view, requests.columns, self._state_partitions.get(view.name, 1))
            for view in self.inputs.views
        }
        needs = [
            needs_of(
                view.name,
                view.topic,
                entities[view.name].state_partition_of_requests,
                request_topic=requests.topic,
                request_partition=requests.partition,
                request_offset=requests.offset,
                received_ms=requests.received_ms,
                after=requests.after,
            )
            for view in self.inputs.views
            if view.topic is not None
        ]
        return _Prepared(rejects, row, requests, entities, needs, markers={})

    async def _features(
        self, prepared: _Prepared, deadline: F64, stage_ms: dict[str, float]
    ) -> list[Rows] | None:
        """The rows of every view once they are fresh enough, or None if the store is away."""
        clock = self._clock.monotonic
        needs = [need for of_view in prepared.needs for need in of_view.needs]
        ids = sorted({need.marker for need in needs})
        wanted = [
            (view.name, view.layout, prepared.entities[view.name].keys)
            for view in self.inputs.views
        ]
        last = float(deadline.min(initial=np.inf))
        rows: list[Rows] | None
        while True:
            try:
                if any(need.topic is not None for need in needs):
                    # The event was made a moment ago: its rows are hardly ever there already.
                    prepared.markers = await self._on_thread(lambda: self._reads.markers(ids))
                    rows = None
                else:
                    prepared.markers, rows = await self._on_thread(
                        lambda: self._reads.read(ids, wanted)
                    )
                waiting = self.freshness.worth_waiting(needs, prepared.markers)
                mark = clock()
                most_s = min(self.route.freshness_wait_ms / 1e3, (last - mark) / 2)
                if waiting and most_s > 0:
                    seen = await self.freshness.wait(waiting, most_s)
                    prepared.markers = {**prepared.markers, **seen}
                    stage_ms["freshness"] += 1e3 * (clock() - mark)
                    rows = None
                if rows is None:
                    _, rows = await self._on_thread(lambda: self._reads.read([], wanted))
                return rows
            except UnavailableError as error:
                if clock() >= last:
                    _log.warning("features_unavailable", error=str(error), rows=len(deadline))
                    return None
                await asyncio.sleep(_STORE_RETRY_S)

    def _assemble(self, prepared: _Prepared, rows: Sequence[Rows]) -> Vectors:
        found = {
            view.name: (of_view, prepared.entities[view.name].index)
            for view, of_view in zip(self.inputs.views, rows, strict=True)
        }
        return assemble(self.inputs, prepared.requests.time_ms, prepared.requests.columns, found)

    def _no_vectors(self, prepared: _Prepared) -> Vectors:
        n = len(prepared.requests)
        zero = np.zeros(n, np.int64)
        matrix = np.full((n, len(self.inputs.columns)), np.nan, np.float32)
        return Vectors(matrix, zero - 1, zero, zero, {}, {}, {})

    async def _on_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


def _lag_ms(prepared: _Prepared) -> I64:
    lag = np.zeros(len(prepared.requests), np.int64)
    for needs in prepared.needs:
        lag = np.maximum(lag, needs.lag_ms(prepared.markers, prepared.requests.time_ms))
    return lag


def _without(prepared: _Prepared, failed: Mapping[int, str], keep: I64) -> _Prepared:
    """Only the requests `keep`; those that an on-demand view failed on become rejects."""
    rejects = [
        Reject(int(prepared.row[row]), "udf_failed", why) for row, why in sorted(failed.items())
    ]
    return replace(
        prepared,
        rejects=prepared.rejects + rejects,
        row=prepared.row[keep],
        requests=prepared.requests.take(keep),
        needs=[needs.take(keep) for needs in prepared.needs],
    )
