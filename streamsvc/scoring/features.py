"""From request records to vectors: the part of scoring that computes and blocks, for one thread.

A thread hand-over costs more than decoding a few requests does, so as much as possible is one call.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64
from streamsvc.errors import UnavailableError
from streamsvc.events.wire import Reject
from streamsvc.scoring.entities import Entities, entities_of
from streamsvc.scoring.fetch import StoreReads, Wanted
from streamsvc.scoring.inputs import ServiceInputs
from streamsvc.scoring.needs import MarkerId, Markers, Need, Needs, needs_of, unmet
from streamsvc.scoring.requests import RequestReader, Requests, merged
from streamsvc.scoring.vectors import Vectors, assemble
from streamsvc.store.row import Rows
from streamsvc.transport.chunk import Chunk

__all__ = ["Batch", "FeatureReads"]

LOOK_S = 0.002
"""Between two looks at the markers of an event that is not there yet."""


@dataclass(slots=True, eq=False)
class Batch:
    """A batch of requests on its way to vectors."""

    requests: Requests
    rejects: list[Reject]
    """Records that are no requests, by their row in the merged chunks."""
    row: I64
    """Row of the merged chunks that each request is."""
    entities: Mapping[str, Entities]
    needs: Sequence[Needs]
    """One for each windowed view."""
    markers: Markers | None = None
    """As last read; None until then."""
    vectors: Vectors | None = None
    """Of the rows as last read, fresh or not; None until then."""
    decode_ms: float = 0.0
    waited_s: float = 0.0
    """For events that were not in the features yet."""

    @property
    def all_needs(self) -> list[Need]:
        """The needs of every view."""
        return [need for needs in self.needs for need in needs.needs]

    def lag_ms(self) -> I64:
        """How many ms each request's features may lack by the markers, shape (n,)."""
        lag = np.zeros(len(self.requests), np.int64)
        for needs in self.needs:
            lag = np.maximum(lag, needs.lag_ms(self.markers or {}, self.requests.time_ms))
        return lag

    def keep(self, rows: I64, failed: Mapping[int, str]) -> None:
        """Go on with these requests alone; the others become rejects, for the reasons given."""
        self.rejects = self.rejects + [
            Reject(int(self.row[row]), "udf_failed", why) for row, why in sorted(failed.items())
        ]
        self.row = self.row[rows]
        self.requests = self.requests.take(rows)
        self.needs = [needs.take(rows) for needs in self.needs]
        self.vectors = None if self.vectors is None else self.vectors.take(rows)


class FeatureReads:
    """Decodes requests of one service and reads their features. Thread-safe."""

    def __init__(
        self,
        inputs: ServiceInputs,
        reader: RequestReader,
        reads: StoreReads,
        state_partitions: Mapping[str, int],
        clock: Callable[[], float],
    ) -> None:
        """`state_partitions` says for each windowed view how many there are."""
        self.inputs = inputs
        self._reader = reader
        self._reads = reads
        self._state_partitions = state_partitions
        self._clock = clock

    def start(
        self,
        chunks: Sequence[Chunk],
        now_ms: int,
        patience_s: Callable[[Requests], float | None],
        lagging: frozenset[MarkerId],
        *,
        fresh: bool,
    ) -> Batch:
        """Decode chunks and have a first look at their features, unless nobody waits for them any
        more (None).

        A named event is waited for here, for `patience_s` of all requests at most, but not in state
        partitions that are `lagging`. If the store does not answer, the batch has no markers, and
        `look` is to be tried again.
        """
        began = self._clock()
        batch = self._decoded(chunks, now_ms, fresh=fresh)
        batch.decode_ms = 1e3 * (self._clock() - began)
        if len(batch.requests) and (patience := patience_s(batch.requests)) is not None:
            # Whoever finds no markers in the batch calls `look`, which tells what is wrong.
            with suppress(UnavailableError):
                self.look(batch, patience, lagging)
        return batch

    def look(
        self,
        batch: Batch,
        patience_s: float = 0.0,
        lagging: frozenset[MarkerId] = frozenset(),
    ) -> None:
        """Read markers, and vectors with them; a named event is not there yet more often than not,
        so then vectors are read only once the markers cover it.

        Raises UnavailableError.
        """
        needs = batch.all_needs
        ids = sorted({need.marker for need in needs})
        if any(need.topic is not None for need in needs):
            batch.markers = self._reads.markers(ids)
            missing = unmet(needs, batch.markers)
            looks = 0 if any(need.marker in lagging for need in missing) else patience_s // LOOK_S
            began = self._clock()
            while missing and looks > 0:
                # On this thread: by way of the event loop two more would be woken for each batch.
                time.sleep(LOOK_S)
                looks -= 1
                late = sorted({need.marker for need in missing})
                batch.markers = {**batch.markers, **self._reads.markers(late)}
                missing = unmet(missing, batch.markers)
                batch.waited_s = self._clock() - began
            if not missing:
                self.read(batch)
        else:
            batch.markers, rows = self._reads.read(ids, self._wanted(batch))
            batch.vectors = self._assembled(batch, rows)

    def read(self, batch: Batch) -> None:
        """Read vectors as they are now. Raises UnavailableError."""
        _, rows = self._reads.read([], self._wanted(batch))
        batch.vectors = self._assembled(batch, rows)

    def probe(self) -> None:
        """Have one answer from the store. Raises UnavailableError."""
        self._reads.ping()

    def no_vectors(self, n: int) -> Vectors:
        """What stands for the vectors of n requests when the store is away."""
        nothing = np.zeros(n, np.int64)
        matrix = np.full((n, len(self.inputs.columns)), np.nan, np.float32)
        return Vectors(matrix, nothing - 1, nothing, nothing, {}, {}, {})

    def _decoded(self, chunks: Sequence[Chunk], now_ms: int, *, fresh: bool) -> Batch:
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
                declared_key=view.declared_key,
            )
            for view in self.inputs.views
            if fresh and view.topic is not None
        ]
        return Batch(requests, rejects, row, entities, needs)

    def _wanted(self, batch: Batch) -> list[Wanted]:
        return [
            (view.name, view.layout, batch.entities[view.name].keys) for view in self.inputs.views
        ]

    def _assembled(self, batch: Batch, rows: Sequence[Rows]) -> Vectors:
        found = {
            view.name: (of_view, batch.entities[view.name].index)
            for view, of_view in zip(self.inputs.views, rows, strict=True)
        }
        return assemble(self.inputs, batch.requests.time_ms, batch.requests.columns, found)
