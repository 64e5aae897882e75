"""From decoded events to a view's rows: its udf, its entity key, and the columns it aggregates.

The stream, the archive and training all come through here, so a udf or a null entity can never
mean one thing live and another in history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, Columns, concat
from streamsvc.definitions.plan import FieldType, View
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.events.frames import from_frame, kept_rows, to_frame
from streamsvc.events.wire import Reject

__all__ = ["NO_ROWS", "EntityRows", "column_types", "entity_rows"]


@dataclass(frozen=True, slots=True)
class EntityRows:
    """Rows of one view, ready to be aggregated; all columns have shape (n,).

    `partition` and `offset` are those of the source, which order ties of event time.
    """

    keys: BytesColumn
    event_time: I64
    partition: I64
    offset: I64
    columns: Mapping[str, Column]

    def __len__(self) -> int:
        return len(self.event_time)

    def take(self, rows: I64 | slice) -> EntityRows:
        """The rows at these positions; of a slice, views."""
        return EntityRows(
            self.keys.take(rows),
            self.event_time[rows],
            self.partition[rows],
            self.offset[rows],
            {name: column.take(rows) for name, column in self.columns.items()},
        )


_EMPTY = np.empty(0, np.int64)
NO_ROWS = EntityRows(
    BytesColumn(np.empty(0, np.uint8), _EMPTY, _EMPTY, np.empty(0, np.bool_)),
    _EMPTY,
    _EMPTY,
    _EMPTY,
    {},
)
"""What is left of a chunk that holds nothing for a view; it has no columns either."""


def column_types(view: View) -> dict[str, FieldType]:
    """Type of every column that the view aggregates.

    A number that the udf makes is a float64: pandas cannot hold a null in an integer column, so the
    type would otherwise change from chunk to chunk.
    """
    declared = {f.name: f.type for f in view.source.schema.fields}
    known = {**declared, **view.column_types}
    return {a.column: known.get(a.column, "float64") for a in view.aggregates}


def entity_rows(
    view: View, columns: Columns, event_time: I64, partition: I64, offset: I64, rows: I64
) -> tuple[EntityRows, list[Reject]]:
    """The view's rows among `rows` (positions in the columns), and those refused.

    Refused with reason `udf_failed` are rows on which the udf raises, found by bisection, and with
    `null_entity` rows whose entity key is null; a row that the udf leaves out is neither.
    """
    rejects: list[Reject] = []
    wanted = {**column_types(view), **{k.name: k.type for k in view.join_keys}}
    if view.udf is None:
        chosen = {name: columns[name].take(rows) for name in wanted}
    else:
        rows, chosen = _transformed(view, columns, event_time, rows, wanted, rejects)
    keys = encode_entity_keys([chosen[k.name] for k in view.join_keys])
    if not keys.valid.all():
        names = ", ".join(k.name for k in view.join_keys)
        for row in rows[~keys.valid].tolist():
            error = f"view {view.name}: entity key ({names}) is null"
            rejects.append(Reject(row, "null_entity", error))
        present = np.flatnonzero(keys.valid)
        rows, keys = rows[present], keys.take(present)
        chosen = {name: column.take(present) for name, column in chosen.items()}
    aggregated = {a.column: chosen[a.column] for a in view.aggregates}
    return EntityRows(keys, event_time[rows], partition[rows], offset[rows], aggregated), rejects


def _transformed(
    view: View,
    columns: Columns,
    event_time: I64,
    rows: I64,
    wanted: Mapping[str, FieldType],
    rejects: list[Reject],
) -> tuple[I64, dict[str, Column]]:
    """Rows that the udf returned, and their columns; failing rows are added to `rejects`."""
    assert view.udf is not None
    schema = view.source.schema
    required = [f.name for f in schema.fields if not f.nullable]
    pieces: list[tuple[I64, Mapping[str, Column]]] = []
    # Slices still to be tried: a failing one is cut in half until the failing rows stand alone.
    pending = [rows] if len(rows) else []
    while pending:
        part = pending.pop()
        frame = to_frame(
            {name: column.take(part) for name, column in columns.items()},
            required=required,
            times={schema.timestamp_field: event_time[part]},
        )
        try:
            result = view.udf(frame)
            pieces.append((part[kept_rows(result, len(part))], from_frame(result, wanted)))
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            if len(part) == 1:
                text = f"view {view.name}: udf raised {type(error).__name__}: {error}"
                rejects.append(Reject(int(part[0]), "udf_failed", text))
                continue
            half = len(part) // 2
            pending += [part[half:], part[:half]]
    kept, chosen = _joined(pieces, wanted)
    if len(kept) and (np.diff(kept) < 0).any():
        # What an entity is after each event depends on their order, which a udf may change.
        order = np.argsort(kept, kind="stable")
        return kept[order], {name: column.take(order) for name, column in chosen.items()}
    return kept, chosen


def _joined(
    pieces: list[tuple[I64, Mapping[str, Column]]], wanted: Mapping[str, FieldType]
) -> tuple[I64, dict[str, Column]]:
    if len(pieces) == 1:
        return pieces[0][0], dict(pieces[0][1])
    empty = np.empty(0, np.int64)
    rows = np.concatenate([p[0] for p in pieces]) if pieces else empty
    return rows, {
        name: concat([p[1][name] for p in pieces], type_) for name, type_ in wanted.items()
    }
