"""Judged events of an event topic, and what they are to a view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamsvc.columns import I64, Bools, Column
from streamsvc.definitions.plan import View
from streamsvc.events.wire import Reject
from streamsvc.features.rows import NO_ROWS, EntityRows, entity_rows

__all__ = ["Events", "Judged", "RowsTogether", "SourceClock", "rows_together"]


@dataclass(frozen=True, slots=True)
class SourceClock:
    """The ageing clock of a partition: the greatest event time seen, and who set it last."""

    ms: int
    driven: bool
    """A clock record came last: time goes on with the next record, not with the wall."""


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Records of one or several chunks of a source, one chunk after the other, one row each."""

    columns: Mapping[str, Column]
    event_time: I64
    offset: I64
    accepted: Bools
    """Which records count."""


@dataclass(frozen=True, slots=True, eq=False)
class Events:
    """A decoded and judged chunk."""

    judged: Judged
    rows: slice
    """Its own among them."""
    partition: int
    rejects: list[Reject]
    """By its own rows."""
    watermark: int
    """Greatest event time accepted up to the end of the chunk."""
    clock: SourceClock
    start: int
    end: int
    """Source offsets `[start, end)` that the chunk covers."""

    @property
    def columns(self) -> dict[str, Column]:
        """One row per record, as the next three."""
        return {name: column.take(self.rows) for name, column in self.judged.columns.items()}

    @property
    def event_time(self) -> I64:
        """Milliseconds since 1970; of records that count."""
        return self.judged.event_time[self.rows]

    @property
    def offset(self) -> I64:
        """Of each record in its partition."""
        return self.judged.offset[self.rows]

    @property
    def accepted(self) -> Bools:
        """Which records count."""
        return self.judged.accepted[self.rows]

    def rows_for(self, view: View, since: int) -> tuple[EntityRows, list[Reject]]:
        """The view's rows at or after a source offset, and the records it refuses."""
        offset = self.offset
        rows = np.flatnonzero(self.accepted & (offset >= since))
        if not len(rows):
            return NO_ROWS, []
        partition = np.full(len(offset), self.partition)
        return entity_rows(view, self.columns, self.event_time, partition, offset, rows)


@dataclass(frozen=True, slots=True)
class RowsTogether:
    """A view's rows of several chunks, one chunk after the other."""

    rows: EntityRows
    starts: list[int]
    """Where the rows of each chunk begin, and where the last one's end."""
    rejects: list[list[Reject]]
    """What the view refuses of each chunk, by its own rows."""

    def of(self, chunk: int) -> EntityRows:
        """Those of one chunk, as views."""
        return self.rows.take(slice(self.starts[chunk], self.starts[chunk + 1]))


def rows_together(view: View, parts: Sequence[Events]) -> RowsTogether:
    """The view's rows of chunks that were judged together, of all of them.

    What it takes to make rows hardly depends on how many they are, and with a udf it is a
    millisecond.
    """
    if len(parts) == 1:
        alone, rejects = parts[0].rows_for(view, parts[0].start)
        return RowsTogether(alone, [0, len(alone)], [rejects])
    judged = parts[0].judged
    rows = np.flatnonzero(judged.accepted)
    refused: list[list[Reject]] = [[] for _ in parts]
    if not len(rows):
        return RowsTogether(NO_ROWS, [0] * (len(parts) + 1), refused)
    # By chunk in place of partition: rows are in the order of their events.
    sizes = [part.rows.stop - part.rows.start for part in parts]
    chunk = np.repeat(np.arange(len(parts)), sizes)
    made, rejects = entity_rows(view, judged.columns, judged.event_time, chunk, judged.offset, rows)
    for reject in rejects:
        of = int(chunk[reject.row])
        refused[of].append(replace(reject, row=reject.row - parts[of].rows.start))
    starts = np.searchsorted(made.partition, np.arange(len(parts) + 1)).tolist()
    partition = np.array([part.partition for part in parts])
    return RowsTogether(replace(made, partition=partition[made.partition]), starts, refused)
