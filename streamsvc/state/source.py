"""One partition of an event topic: records to judged events.

What happens to a record (accepted, late, refused) depends on the log alone: on the record and on
the greatest event time before it in its own partition. So a replay judges as the first run did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64, Bools, Column, concat
from streamsvc.definitions.plan import Source, View
from streamsvc.entity_keys import key_text, murmur2
from streamsvc.events.decode import Decoder
from streamsvc.events.lateness import NO_WATERMARK, judge
from streamsvc.events.wire import Clocks, Reject, find_clocks
from streamsvc.features.rows import NO_ROWS, EntityRows, entity_rows
from streamsvc.transport.chunk import Chunk

__all__ = ["Events", "SourceClock", "SourcePartition", "rows_together"]


@dataclass(frozen=True, slots=True)
class SourceClock:
    """The ageing clock of a partition: the greatest event time seen, and who set it last."""

    ms: int
    driven: bool
    """A clock record came last: time goes on with the next record, not with the wall."""


@dataclass(frozen=True, slots=True)
class Events:
    """A decoded and judged chunk; columns have one row per record, `accepted` says which count."""

    columns: Mapping[str, Column]
    event_time: I64
    partition: I64
    offset: I64
    accepted: Bools
    rejects: list[Reject]
    watermark: int
    """Greatest event time accepted up to the end of the chunk."""
    clock: SourceClock
    start: int
    end: int
    """Source offsets `[start, end)` that the chunk covers."""

    def rows_for(self, view: View, since: int) -> tuple[EntityRows, list[Reject]]:
        """The view's rows at or after a source offset, and the records it refuses."""
        rows = np.flatnonzero(self.accepted & (self.offset >= since))
        if not len(rows):
            return NO_ROWS, []
        found, rejects = entity_rows(
            view, self.columns, self.event_time, self.partition, self.offset, rows
        )
        return found, rejects


def rows_together(
    views: Sequence[View], parts: Sequence[Events]
) -> list[tuple[EntityRows, list[list[Reject]]]]:
    """Each view's rows of several chunks of one source, and the records refused, by chunk.

    A udf costs a millisecond a call, however few the rows: small chunks are better handed to it
    together.
    """
    if len(parts) == 1:
        alone = [parts[0].rows_for(view, parts[0].start) for view in views]
        return [(rows, [rejects]) for rows, rejects in alone]
    types = {field.name: field.type for field in views[0].source.schema.fields}
    columns = {n: concat([p.columns[n] for p in parts], types[n]) for n in parts[0].columns}
    at, partition, offset = (
        np.concatenate([getattr(p, name) for p in parts])
        for name in ("event_time", "partition", "offset")
    )
    rows = np.flatnonzero(np.concatenate([p.accepted for p in parts]))
    starts = np.cumsum([0, *(len(p.offset) for p in parts)])
    found = []
    for view in views:
        refused: list[list[Reject]] = [[] for _ in parts]
        if len(rows):
            of_view, rejects = entity_rows(view, columns, at, partition, offset, rows)
        else:
            of_view, rejects = NO_ROWS, []
        for reject in rejects:
            part = int(np.searchsorted(starts, reject.row, "right")) - 1
            row = reject.row - int(starts[part])
            refused[part].append(Reject(row, reject.reason, reject.error))
        found.append((of_view, refused))
    return found


class SourcePartition:
    """Decoding and judging state of one source partition; `watermark` is all of it that counts."""

    def __init__(self, source: Source, decoder: Decoder, partition: int, partitions: int) -> None:
        self.source = source
        self.partition = partition
        self.next_offset = -1
        self.watermark = NO_WATERMARK
        self.clock = SourceClock(NO_WATERMARK, False)
        self.read_until_ms = 0
        """Kafka timestamp of the newest record read."""
        self._decoder = decoder
        self._partitions = partitions

    def resume(self, offset: int, watermark: int, clock: SourceClock) -> None:
        """Go on at this offset with the watermark that held there."""
        self.next_offset, self.watermark, self.clock = offset, watermark, clock

    def unread(self, chunk: Chunk) -> Chunk | None:
        """The part of a chunk that was not read yet, or None. The transport allows no gaps."""
        return chunk.since(self.next_offset) if chunk.next_offset > self.next_offset else None

    def pass_over(self, chunk: Chunk) -> None:
        """Go past a chunk that nobody wants to know."""
        self.next_offset = chunk.next_offset

    def read(self, chunk: Chunk) -> Events:
        """Decode and judge a chunk that starts at `next_offset`."""
        clocks = find_clocks(chunk)
        decoded = self._decoder.decode(chunk.values, chunk.timestamps, skip=clocks.skip)
        accepted, rejects = decoded.ok, list(decoded.rejects)
        if self.source.key_field is not None:
            accepted = accepted & ~self._misplaced(decoded.columns, accepted, rejects)
        late, watermark = judge(
            decoded.event_time, accepted, self.watermark, self.source.allowed_lateness_ms
        )
        for row in np.flatnonzero(late).tolist():
            error = (
                f"event time {decoded.event_time[row]} ms is more than "
                f"{self.source.allowed_lateness_ms} ms behind the partition's greatest"
            )
            rejects.append(Reject(row, "late", error))
        self.watermark = watermark
        self.clock = self._clock_after(clocks, watermark, len(chunk))
        self.next_offset = chunk.next_offset
        if len(chunk):
            self.read_until_ms = int(chunk.timestamps[-1])
        return Events(
            decoded.columns,
            decoded.event_time,
            np.full(len(chunk), self.partition, np.int64),
            chunk.offsets,
            accepted & ~late,
            rejects,
            watermark,
            self.clock,
            chunk.first_offset,
            chunk.next_offset,
        )

    def _clock_after(self, clocks: Clocks, watermark: int, n: int) -> SourceClock:
        told = int(clocks.time.max(initial=NO_WATERMARK))
        driven = bool(clocks.skip[-1]) if n else self.clock.driven
        return SourceClock(max(self.clock.ms, watermark, told), driven)

    def _misplaced(
        self, columns: Mapping[str, Column], accepted: Bools, rejects: list[Reject]
    ) -> Bools:
        """Rows whose declared key belongs in another partition; the promise is checked on all."""
        name = self.source.key_field
        assert name is not None
        text = key_text(columns[name])
        wrong = (murmur2(text) % self._partitions != self.partition) & text.valid & accepted
        for row in np.flatnonzero(wrong).tolist():
            error = (
                f"source {self.source.name} declares that {self.source.topic} is partitioned by "
                f"murmur2 of {name}, but this record lies in partition {self.partition}; use that "
                "partitioner in the producer, or drop the streamsvc.key tag"
            )
            rejects.append(Reject(row, "wrong_key", error))
        return wrong
