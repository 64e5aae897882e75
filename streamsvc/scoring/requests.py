"""Chunks of a request topic → requests as columns, and the records that are none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamsvc.columns import I64, BytesColumn, Columns
from streamsvc.definitions.plan import Source
from streamsvc.events.decode import Decoder
from streamsvc.events.wire import AFTER_HEADER, TRACE_HEADER, Reject, find_clocks, parse_after
from streamsvc.scoring.headers import header_column
from streamsvc.scoring.needs import NamedEvent
from streamsvc.transport.chunk import Chunk

__all__ = ["RequestReader", "Requests", "merged", "rejects_by_chunk"]


@dataclass(frozen=True, slots=True, eq=False)
class Requests:
    """n requests of one topic, in the order in which they came. Arrays have shape (n,)."""

    topic: str
    partition: I64
    offset: I64
    received_ms: I64
    """Kafka timestamp."""
    time_ms: I64
    """Event time: the instant at which the features are asked for."""
    columns: Columns
    after: tuple[NamedEvent, ...]
    trace: BytesColumn
    """`traceparent` of the request; null where it had none."""

    def __len__(self) -> int:
        return len(self.offset)

    def take(self, rows: I64) -> Requests:
        """These rows alone, without the events that they had to wait for."""
        return Requests(
            self.topic,
            self.partition[rows],
            self.offset[rows],
            self.received_ms[rows],
            self.time_ms[rows],
            {name: column.take(rows) for name, column in self.columns.items()},
            (),
            self.trace.take(rows),
        )


class RequestReader:
    """Decodes the request topic of one service."""

    def __init__(self, source: Source, decoder: Decoder) -> None:
        self.source = source
        self._decoder = decoder

    def read(self, chunk: Chunk, partition: I64, now_ms: int) -> tuple[Requests, list[Reject], I64]:
        """The requests in a (merged) chunk whose records lie in these partitions, the records that
        are none, and the row of the chunk that each request is.

        Clock records are neither: they carry no event and ask for nothing. A record without a
        Kafka timestamp counts as received now.
        """
        clocks = find_clocks(chunk)
        decoded = self._decoder.decode(chunk.values, chunk.timestamps, skip=clocks.skip)
        ok = decoded.ok & ~clocks.skip
        rejects = list(decoded.rejects)
        named, malformed = _after(chunk)
        for reject in malformed:
            if ok[reject.row]:
                ok[reject.row] = False
                rejects.append(reject)
        received = np.where(chunk.timestamps < 0, now_ms, chunk.timestamps)
        requests = Requests(
            chunk.topic,
            partition,
            chunk.offsets,
            received,
            decoded.event_time,
            decoded.columns,
            tuple(named),
            header_column(chunk, TRACE_HEADER),
        )
        rows = np.flatnonzero(ok)
        if len(rows) == len(chunk):
            return requests, rejects, rows
        place = np.cumsum(ok) - 1
        after = tuple(n._replace(row=int(place[n.row])) for n in named if ok[n.row])
        return replace(requests.take(rows), after=after), rejects, rows


def rejects_by_chunk(
    chunks: Sequence[Chunk], rejects: Sequence[Reject]
) -> list[tuple[Chunk, list[Reject]]]:
    """Rejects of merged chunks, given back to the chunk that each row came from."""
    if not rejects:
        return []
    end = np.cumsum([len(c) for c in chunks])
    found: dict[int, list[Reject]] = {}
    for reject in rejects:
        i = int(np.searchsorted(end, reject.row, "right"))
        row = reject.row - int(end[i]) + len(chunks[i])
        found.setdefault(i, []).append(Reject(row, reject.reason, reject.error))
    return [(chunks[i], of_chunk) for i, of_chunk in sorted(found.items())]


def merged(chunks: Sequence[Chunk]) -> tuple[Chunk, I64]:
    """Chunks of one topic as one, and the partition of each of its records.

    The result's own `partition` and offsets as a run mean nothing where the chunks come from
    several partitions.
    """
    first = chunks[0]
    partition = np.repeat(
        np.array([c.partition for c in chunks], np.int64), [len(c) for c in chunks]
    )
    if len(chunks) == 1:
        return first, partition
    shift = np.cumsum([0, *(len(c.data) for c in chunks)]).tolist()

    def shifted(starts: Sequence[I64]) -> I64:
        return np.concatenate(
            [np.where(s >= 0, s + by, s) for s, by in zip(starts, shift, strict=False)]
        )

    return (
        Chunk(
            topic=first.topic,
            partition=first.partition,
            data=np.concatenate([c.data for c in chunks]),
            offsets=np.concatenate([c.offsets for c in chunks]),
            timestamps=np.concatenate([c.timestamps for c in chunks]),
            key_start=shifted([c.key_start for c in chunks]),
            key_end=shifted([c.key_end for c in chunks]),
            value_start=shifted([c.value_start for c in chunks]),
            value_end=shifted([c.value_end for c in chunks]),
            header_start=shifted([c.header_start for c in chunks]),
            header_end=shifted([c.header_end for c in chunks]),
            first_offset=first.first_offset,
            next_offset=chunks[-1].next_offset,
        ),
        partition,
    )


def _after(chunk: Chunk) -> tuple[list[NamedEvent], list[Reject]]:
    column = header_column(chunk, AFTER_HEADER)
    named: list[NamedEvent] = []
    malformed: list[Reject] = []
    for row in np.flatnonzero(column.valid).tolist():
        try:
            events = parse_after(column.row(row))
        except ValueError as error:
            malformed.append(Reject(row, "wrong_type", str(error)))
            continue
        named += [NamedEvent(row, *event) for event in events]
    return named, malformed
