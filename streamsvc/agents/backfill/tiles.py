"""From archived events to the tiles of a view's state partitions, in two steps that anybody may do.

Each unit of the archive becomes tiles of the windows as of the hand-over, one batch a state
partition; the batches of a state partition are then merged. Both are functions of the archive
alone, so a piece of work that is lost with its machine is done again by another one.

A row claims no instant before the newest at which anything can have left a window: units do not
know of each other what had left before (`WindowState`, as for a key that comes back).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamsvc.agents.backfill.extent import Unit
from streamsvc.archive.reading import fitted, opened
from streamsvc.archive.rows import OFFSET, archive_schema
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.columns import I64
from streamsvc.definitions.plan import LIFETIME_MS, View
from streamsvc.entity_keys import key_text, murmur2
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.feast.archive import Archive, ArchiveReader
from streamsvc.feast.windowed_history import fields_of, reach_of
from streamsvc.features.engine import WindowState
from streamsvc.features.rows import column_types, entity_rows
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch
from streamsvc.state.incarnations import Handover

__all__ = ["Piece", "Task", "merged", "unit_tiles"]

_ROWS = 1 << 17
_BEGINNING, _END = -(2**62), 2**62


@dataclass(frozen=True, slots=True)
class Task:
    """What a backfill is to make."""

    view: View
    source_partitions: int
    state_partitions: int
    handover: Handover

    @property
    def spec(self) -> WindowSpec:
        """The view's aggregates, compiled."""
        return WindowSpec.of(self.view.aggregates, column_types(self.view))

    def clock(self, state_partition: int) -> int:
        """The ageing clock of a state partition at the hand-over."""
        marks = self.handover.watermarks
        if self.view.shuffled:
            return max(marks.values(), default=NO_WATERMARK)
        return marks.get(state_partition, NO_WATERMARK)

    def since_ms(self, source_partition: int) -> int:
        """What happened before has left every window by the hand-over, or was not asked for."""
        asked = _BEGINNING if self.handover.from_ms is None else self.handover.from_ms
        if any(a.window_ms == LIFETIME_MS for a in self.view.aggregates):
            return asked
        return max(asked, self.clock(source_partition) - reach_of(self.view))

    def vector(self, state_partition: int) -> dict[int, int]:
        """Next source offset by source partition."""
        if self.view.shuffled:
            return dict(self.handover.offsets)
        return {state_partition: self.handover.offsets[state_partition]}

    def built_by(self, units: Sequence[Unit]) -> Mapping[int, list[int]]:
        """State partition -> positions of the units that have events for it."""
        if self.view.shuffled:
            return {p: list(range(len(units))) for p in range(self.state_partitions)}
        found: dict[int, list[int]] = {p: [] for p in sorted(self.handover.offsets)}
        for i, unit in enumerate(units):
            found[unit.partition].append(i)
        return found


@dataclass(slots=True)
class Piece:
    """What became of a unit."""

    tiles: dict[int, bytes]
    """State partition -> a TileBatch; those without tiles are left out."""
    events: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By reason. The stream has made dead letters of the same records before."""


def unit_tiles(task: Task, unit: Unit) -> Piece:
    """Read a unit of the archive. Raises ConfigurationError, UnavailableError."""
    view, spec = task.view, task.spec
    state = WindowState(spec)
    state.advance(task.clock(unit.partition))
    piece = Piece({})
    for archive in _events(task, unit):
        piece.events += len(archive.event_time)
        rows = archive.rows
        if not view.shuffled:
            rows = _in_place(task, unit.partition, archive, piece.refused)
        found, rejects = entity_rows(
            view, archive.columns, archive.event_time, archive.partition, archive.offset, rows
        )
        piece.refused.update(reject.reason for reject in rejects)
        if len(found):
            state.apply(found.keys, found.event_time, found.partition, found.offset, found.columns)
    tiles = state.snapshot()
    if not view.shuffled:
        parts = {unit.partition: tiles}
    else:
        n = task.state_partitions
        parts = dict(enumerate(tiles.split(spec, murmur2(tiles.keys) % n, n)))
    piece.tiles = {p: part.to_bytes() for p, part in parts.items() if len(part)}
    return piece


def merged(task: Task, state_partition: int, parts: Sequence[bytes]) -> WindowState:
    """The state of a state partition at the hand-over."""
    state = WindowState(task.spec)
    state.advance(task.clock(state_partition))
    for raw in parts:
        state.merge(TileBatch.from_bytes(raw))
    return state


def _events(task: Task, unit: Unit) -> Iterator[Archive]:
    """A unit's events, of which those count that were not late, batch by batch."""
    source = task.view.source
    assert source.archive_path is not None
    storage = ArchiveStorage(source.archive_path, source.archive_endpoint)
    since_ms = task.since_ms(unit.partition)
    whole = archive_schema(source)
    reader = ArchiveReader(source, fields_of(task.view), whole.names)
    schema = pa.schema([whole.field(name) for name in reader.columns])
    for file, groups in unit.parts:
        with opened(storage, file) as parquet:
            held = set(parquet.schema_arrow.names)
            columns = [name for name in schema.names if name in held]
            for batch in parquet.iter_batches(_ROWS, row_groups=groups, columns=columns):
                table = pa.Table.from_batches([fitted(batch, schema)])
                if file.next > unit.until:
                    table = table.filter(pc.less(table.column(OFFSET), unit.until))
                yield reader.read(table, since_ms, _END)


def _in_place(task: Task, partition: int, archive: Archive, refused: Counter[str]) -> I64:
    """The rows whose declared key belongs in the partition that they lie in.

    The archive was written when the source may have declared none.
    """
    name = task.view.source.key_field
    assert name is not None
    text = key_text(archive.columns[name].take(archive.rows))
    right = (murmur2(text) % task.source_partitions == partition) | ~text.valid
    if wrong := int(len(right) - right.sum()):
        refused["wrong_key"] += wrong
    return archive.rows[np.flatnonzero(right)]
