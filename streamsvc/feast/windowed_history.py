"""Windowed features at every row of an entity table, from the archive of raw events.

The same udf, entity keys and kernel as the stream: `features.rows` and `features.history`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, NumericColumn
from streamsvc.definitions.plan import Aggregate, View
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.feast.archive import Archive, read_archive
from streamsvc.features.history import features_at
from streamsvc.features.rows import column_types, entity_rows
from streamsvc.features.spec import WindowSpec

__all__ = ["Archives", "windowed_features"]


class Archives:
    """The archives that the views of one call read, each of them once.

    `until_ms` is the last instant that anyone asks for.
    """

    def __init__(self, views: Sequence[View], until_ms: int) -> None:
        self._until_ms = until_ms
        self._fields: dict[str, set[str]] = {}
        self._read: dict[str, Archive] = {}
        for view in views:
            self._fields.setdefault(view.source.name, set()).update(_fields_of(view))

    def of(self, view: View) -> Archive:
        """The events behind a view. Raises ConfigurationError if they cannot be read."""
        name = view.source.name
        if name not in self._read:
            self._read[name] = read_archive(view.source, self._fields[name], self._until_ms)
        return self._read[name]


def windowed_features(
    view: View,
    features: Sequence[str],
    archive: Archive,
    keys: Mapping[str, Column],
    query_time: I64,
) -> dict[str, Column]:
    """These features of a view for n entities at n instants, shape (n,) each.

    `keys` holds the join keys; where one is null every feature is null. `query_time` is in
    milliseconds; an event at exactly that instant counts. An entity without events has count 0 and
    null for everything else, as on the stream.
    """
    wanted = set(features)
    aggregates = [a for a in view.aggregates if a.feature in wanted]
    entities = encode_entity_keys([keys[k.name] for k in view.join_keys])
    asked = np.flatnonzero(entities.valid)
    found = _at(view, aggregates, archive, entities.take(asked), query_time[asked])
    return {name: _spread(found[name], asked, len(query_time)) for name in features}


def _at(
    view: View, aggregates: Sequence[Aggregate], archive: Archive, keys: BytesColumn, times: I64
) -> dict[str, Column]:
    rows = archive.rows
    if len(times):
        # Events before every window of every row change nothing.
        reach = max(a.window_ms + a.hop_ms for a in aggregates)
        rows = rows[archive.event_time[rows] >= times.min() - reach]
    events, _ = entity_rows(
        view,
        archive.columns,
        archive.event_time,
        archive.partition,
        archive.offset,
        rows,
    )
    types = column_types(view)
    return features_at(
        WindowSpec.of(aggregates, {a.column: types[a.column] for a in aggregates}),
        events.keys,
        events.event_time,
        events.partition,
        events.offset,
        events.columns,
        keys,
        times,
    )


def _fields_of(view: View) -> set[str]:
    declared = {field.name for field in view.source.schema.fields}
    if view.udf is not None:
        return declared
    return {a.column for a in view.aggregates} | {k.name for k in view.join_keys}


def _spread(column: Column, rows: I64, n: int) -> Column:
    if len(rows) == n:
        return column
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
