"""Windowed features at every row of an entity table, from the archive of raw events.

The same udf, entity keys and kernel as the stream: `features.rows` and `features.history`. All
views of a source go through its archive together, slice by slice; where the tiles of all entities
would take too much memory, they go through it in groups, one after another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, NumericColumn, concat
from streamsvc.definitions.plan import View
from streamsvc.entity_keys import murmur2
from streamsvc.feast.archive import Archive
from streamsvc.feast.archive_slices import ArchiveSlices
from streamsvc.features.history import History
from streamsvc.features.rows import EntityRows, column_types, entity_rows
from streamsvc.features.spec import WindowSpec

__all__ = ["FEW_KEYS", "Question", "archived_rows", "fields_of", "reach_of", "windowed_features"]

FEW_KEYS = 256
"""Entities that are not divided further: not even their largest sketches take much memory."""


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """Features of a view for n entities at n instants; arrays have shape (n,).

    Where a key is null, every feature is null. `times` are in milliseconds; an event at exactly
    that instant counts. An entity without events has count 0 and null for everything else.
    """

    view: View
    features: Sequence[str]
    keys: BytesColumn
    times: I64

    def spec(self) -> WindowSpec:
        """What it takes to compute them."""
        wanted = [a for a in self.view.aggregates if a.feature in set(self.features)]
        types = column_types(self.view)
        return WindowSpec.of(wanted, {a.column: types[a.column] for a in wanted})


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """Some of the rows of a question, which are answered together."""

    number: int
    question: Question
    rows: I64
    halved: int = 0

    @property
    def keys(self) -> BytesColumn:
        """Their entity keys, none of them null."""
        return self.question.keys.take(self.rows)

    @property
    def times(self) -> I64:
        """Their instants."""
        return self.question.times[self.rows]

    @property
    def from_ms(self) -> int:
        """The first instant whose events matter to them."""
        return int(self.times.min()) - reach_of(self.question.view)

    def halves(self) -> list[_Piece]:
        """The piece cut in two by entity."""
        low = murmur2(self.keys) >> self.halved & 1 == 0
        parts = [self.rows[low], self.rows[~low]]
        return [
            _Piece(self.number, self.question, rows, self.halved + 1) for rows in parts if len(rows)
        ]


def windowed_features(questions: Sequence[Question], memory: int) -> list[dict[str, Column]]:
    """The answers, columns of shape (n,) by feature.

    `memory` is in bytes, about: half of it for the events in hand, half for tiles. Raises
    ConfigurationError where an archive cannot be read.
    """
    found: list[list[tuple[I64, dict[str, Column]]]] = [[] for _ in questions]
    pieces = [_Piece(i, q, np.flatnonzero(q.keys.valid)) for i, q in enumerate(questions)]
    for name in dict.fromkeys(q.view.source.name for q in questions):
        of_source = [p for p in pieces if p.question.view.source.name == name and len(p.rows)]
        if of_source:
            with _slices(of_source, memory // 2) as slices:
                for piece, values in _answered(of_source, slices, memory // 2):
                    found[piece.number].append((piece.rows, values))
    return [_joined(q, some) for q, some in zip(questions, found, strict=True)]


def archived_rows(view: View, archive: Archive, from_ms: int) -> tuple[EntityRows, I64]:
    """A view's rows of archived events that happened from `from_ms` on, and from when on each
    counts.
    """
    n = len(archive.event_time)
    wanted = archive.rows[archive.event_time[archive.rows] >= from_ms]
    place = np.arange(n, dtype=np.int64)
    zeros = np.zeros(n, np.int64)
    rows, _ = entity_rows(view, archive.columns, archive.event_time, zeros, place, wanted)
    at = rows.offset
    placed = replace(rows, partition=archive.partition[at], offset=archive.offset[at])
    return placed, archive.known[at]


def fields_of(view: View) -> set[str]:
    """The event fields that a view needs."""
    if view.udf is not None:
        return {field.name for field in view.source.schema.fields}
    return {a.column for a in view.aggregates} | {k.name for k in view.join_keys}


def reach_of(view: View) -> int:
    """Milliseconds after which an event has left every window of a view."""
    return max(a.window_ms + a.hop_ms for a in view.aggregates)


def _slices(pieces: Sequence[_Piece], memory: int) -> ArchiveSlices:
    views = [piece.question.view for piece in pieces]
    return ArchiveSlices(
        views[0].source,
        set().union(*map(fields_of, views)),
        min(piece.from_ms for piece in pieces),
        max(int(piece.times.max()) for piece in pieces),
        memory,
    )


def _answered(
    pieces: list[_Piece], slices: ArchiveSlices, memory: int
) -> list[tuple[_Piece, dict[str, Column]]]:
    """Every piece, or what it was cut into, with its values."""
    found = _together(pieces, slices, memory)
    if found is not None:
        return list(zip(pieces, found, strict=True))
    if len(pieces) == 1:
        pieces = pieces[0].halves()
    half = len(pieces) // 2
    groups = [pieces[:half], pieces[half:]]
    return [a for group in groups if group for a in _answered(group, slices, memory)]


def _together(
    pieces: Sequence[_Piece], slices: ArchiveSlices, memory: int
) -> list[dict[str, Column]] | None:
    """The values of all pieces in one pass, None if their tiles need more memory."""
    histories = [History(p.question.spec(), p.keys, p.times) for p in pieces]
    divisible = len(pieces) > 1 or histories[0].keys > FEW_KEYS
    for archive, until in slices:
        for piece, history in zip(pieces, histories, strict=True):
            rows, known = archived_rows(piece.question.view, archive, piece.from_ms)
            history.add(
                rows.keys,
                rows.event_time,
                known,
                rows.partition,
                rows.offset,
                rows.columns,
                until,
            )
            del rows, known
        del archive  # before the next slice is read
        if until is not None and divisible and sum(h.bytes for h in histories) > memory:
            return None
    return [history.values() for history in histories]


def _joined(
    question: Question, found: Sequence[tuple[I64, dict[str, Column]]]
) -> dict[str, Column]:
    """The values of all pieces in the order of the question; null where no piece answers."""
    n = len(question.times)
    types = question.spec().types
    rows = np.concatenate([rows for rows, _ in found]) if found else np.empty(0, np.int64)
    columns: dict[str, Column] = {}
    for name in question.features:
        column = concat([values[name] for _, values in found], types[name])
        columns[name] = _spread(column, rows, n)
    return columns


def _spread(column: Column, rows: I64, n: int) -> Column:
    """Value i of the column at row rows[i] of n; null elsewhere."""
    at = np.zeros(n, np.int64)
    at[rows] = np.arange(len(rows))
    valid = np.zeros(n, np.bool_)
    valid[rows] = column.valid
    if isinstance(column, BytesColumn):
        nothing = np.zeros(n, np.int64)
        start, end = (c[at] if len(rows) else nothing for c in (column.start, column.end))
        return BytesColumn(column.data, start, end, valid)
    if len(rows) == 0:
        return NumericColumn(at, valid)
    return NumericColumn(column.values[at], valid)
