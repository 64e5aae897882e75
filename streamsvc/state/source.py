"""One partition of an event topic: records to judged events.

What happens to a record (accepted, late, refused) depends on the log alone: on the record and on
the greatest event time before it in its own partition. So a replay judges as the first run did.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from operator import attrgetter

import numpy as np

from streamsvc.columns import I64, Bools, BytesColumn, concat
from streamsvc.definitions.plan import Source
from streamsvc.entity_keys import key_text, murmur2
from streamsvc.events.decode import Decoded, Decoder
from streamsvc.events.lateness import NO_WATERMARK, judge
from streamsvc.events.wire import Clocks, Reject, find_clocks
from streamsvc.state.events import Events, Judged, SourceClock
from streamsvc.transport.chunk import Chunk

__all__ = ["SourcePartition", "read_together"]


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
        self.decoder = decoder
        self.partitions = partitions

    def resume(self, offset: int, watermark: int, clock: SourceClock) -> None:
        """Go on at this offset with the watermark that held there."""
        self.next_offset, self.watermark, self.clock = offset, watermark, clock

    def unread(self, chunk: Chunk) -> Chunk | None:
        """The part of a chunk that was not read yet, or None. The transport allows no gaps."""
        return chunk.since(self.next_offset) if chunk.next_offset > self.next_offset else None

    def pass_over(self, chunk: Chunk) -> None:
        """Go past a chunk, which may be judged later, before the next one is."""
        self.next_offset = chunk.next_offset

    def read(self, chunk: Chunk) -> Events:
        """Decode and judge a chunk that starts at `next_offset`."""
        [events] = read_together([(self, chunk)])
        return events

    def judge(self, chunk: Chunk, clocks: Clocks, event_time: I64, ok: Bools) -> Bools:
        """Which records of a chunk are late, of those that are ok; goes past it. The chunks of a
        partition in their order."""
        late, self.watermark = judge(
            event_time, ok, self.watermark, self.source.allowed_lateness_ms
        )
        self.clock = self._clock_after(clocks, self.watermark, len(chunk))
        self.next_offset = chunk.next_offset
        if len(chunk):
            self.read_until_ms = int(chunk.timestamps[-1])
        return late

    def _clock_after(self, clocks: Clocks, watermark: int, n: int) -> SourceClock:
        told = int(clocks.time.max()) if len(clocks.time) else NO_WATERMARK
        driven = bool(clocks.skip[-1]) if n else self.clock.driven
        return SourceClock(max(self.clock.ms, watermark, told), driven)

    def wrong_key(self, row: int) -> Reject:
        """Why a record is refused that lies in another partition than its key's."""
        source = self.source
        error = (
            f"source {source.name} declares that {source.topic} is partitioned by murmur2 of "
            f"{source.key_field}, but this record lies in partition {self.partition}; use that "
            "partitioner in the producer, or drop the streamsvc.key tag"
        )
        return Reject(row, "wrong_key", error)

    def late(self, row: int, event_time: int) -> Reject:
        """Why a late record is refused."""
        error = (
            f"event time {event_time} ms is more than {self.source.allowed_lateness_ms} ms behind "
            "the partition's greatest"
        )
        return Reject(row, "late", error)


def read_together(parts: Sequence[tuple[SourcePartition, Chunk]]) -> list[Events]:
    """As `SourcePartition.read` of each chunk, those of a partition in their order. All sources
    have the same decoder, which takes a hundred calls for a chunk, however small."""
    sources, chunks = [source for source, _ in parts], [chunk for _, chunk in parts]
    source = sources[0].source
    clocks = [find_clocks(chunk) for chunk in chunks]
    first = np.cumsum([0, *(len(chunk) for chunk in chunks)]).tolist()
    ranges = [slice(low, high) for low, high in pairwise(first)]
    decoded = _decoded(sources[0].decoder, chunks, clocks)
    wrong = np.zeros(len(decoded.ok), np.bool_)
    if source.key_field is not None:
        text = key_text(decoded.columns[source.key_field])
        wrong = _misplaced(text, sources, ranges) & decoded.ok
    accepted = decoded.ok & ~wrong
    offset = np.concatenate([chunk.offsets for chunk in chunks])
    judged = Judged(decoded.columns, decoded.event_time, offset, accepted)
    found = []
    for of, chunk, rows, clock in zip(sources, chunks, ranges, clocks, strict=True):
        at = decoded.event_time[rows]
        late = of.judge(chunk, clock, at, accepted[rows])
        accepted[rows] &= ~late
        rejects = [
            *_own(decoded.rejects, rows),
            *(of.wrong_key(row) for row in wrong[rows].nonzero()[0].tolist()),
            *(of.late(row, int(at[row])) for row in late.nonzero()[0].tolist()),
        ]
        state, span = (of.watermark, of.clock), (chunk.first_offset, chunk.next_offset)
        found.append(Events(judged, rows, of.partition, rejects, *state, *span))
    return found


def _own(rejects: Sequence[Reject], rows: slice) -> Sequence[Reject]:
    """Those of one chunk, by its own rows; all are in the order of rows."""
    low, high = (
        bisect_left(rejects, row, key=attrgetter("row")) for row in (rows.start, rows.stop)
    )
    own = rejects[low:high]
    return own if not rows.start else [replace(r, row=r.row - rows.start) for r in own]


def _decoded(decoder: Decoder, chunks: Sequence[Chunk], clocks: Sequence[Clocks]) -> Decoded:
    if len(chunks) == 1:
        return decoder.decode(chunks[0].values, chunks[0].timestamps, skip=clocks[0].skip)
    values = concat([chunk.values for chunk in chunks], "string")
    assert isinstance(values, BytesColumn)
    values.data.flags.writeable = False  # as that of one chunk is: one form of each kernel
    timestamps = np.concatenate([chunk.timestamps for chunk in chunks])
    return decoder.decode(values, timestamps, skip=np.concatenate([each.skip for each in clocks]))


def _misplaced(
    text: BytesColumn, sources: Sequence[SourcePartition], ranges: Sequence[slice]
) -> Bools:
    """Rows whose declared key belongs in another partition; the promise is checked on all."""
    hashes, wrong = murmur2(text), np.empty(len(text), np.bool_)
    for source, rows in zip(sources, ranges, strict=True):
        wrong[rows] = hashes[rows] % source.partitions != source.partition
    return wrong & text.valid
