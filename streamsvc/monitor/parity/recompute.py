"""Rows of the store, made anew from history at the positions that the served log names.

A served row was f(key, as_of) over the records before its offset. So that is what is computed, for
each distinct (key, offset, as_of); whether the row was up to date is another question, which
`stale_ms` and `ahead_ms` of the prediction answer. Where history cannot tell, it says why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from streamsvc.columns import I64, BytesColumn, Column
from streamsvc.definitions.plan import BatchView, View
from streamsvc.entity_keys import encode_entity_keys, key_text, murmur2
from streamsvc.feast.arrow_columns import arrow_of, column_from_arrow, epoch_ms
from streamsvc.feast.batch_source import located, read_rows
from streamsvc.feast.point_in_time import latest_rows
from streamsvc.features.positions import features_at_positions
from streamsvc.features.rows import EntityRows, column_types, entity_rows
from streamsvc.features.spec import WindowSpec
from streamsvc.monitor.parity.event_log import EventLog
from streamsvc.monitor.parity.places import NOWHERE, Direct, Places
from streamsvc.monitor.parity.served import UNKNOWN, Served
from streamsvc.scoring.distinct import distinct
from streamsvc.scoring.vectors import NO_ROW
from streamsvc.store.row import NEVER_MS, RowLayout, Rows

__all__ = [
    "AWAY",
    "LOST",
    "MATERIALIZED",
    "NOT_YET",
    "OTHER",
    "TOO_OLD",
    "Recomputed",
    "batch_rows",
    "windowed_rows",
]

AWAY: Final = "the store was away, and no position was logged"
MATERIALIZED: Final = "of rows that `feast materialize` has written"
OTHER: Final = "of another definition of the view"
LOST: Final = "at a position that the shuffle topic no longer holds"
NOT_YET: Final = "at a position that the archive has not reached"
TOO_OLD: Final = "with windows that reach behind the first event that is left"


@dataclass(frozen=True, slots=True, eq=False)
class Recomputed:
    """The rows of one view for n vectors."""

    rows: Rows
    index: I64
    """Which row a vector used, shape (n,); -1 where its key was null."""
    why_not: Mapping[str, Any]
    """Reason -> shape (n,): vectors whose rows cannot be recomputed."""


def windowed_rows(
    view: View,
    features: Sequence[str],
    incarnation: int,
    states: int,
    places: Places,
    log: EventLog,
    served: Served,
) -> Recomputed:
    """Rows of a windowed view with these features. `states` is its number of state partitions."""
    position = served.position(view.name)
    parts = [served.entity[key.name] for key in view.join_keys]
    keys = encode_entity_keys(parts)
    state = _states(view, parts, keys, states)
    present = keys.valid & (position.incarnation >= 0)
    why_not = {
        AWAY: position.incarnation == UNKNOWN,
        MATERIALIZED: present & (position.incarnation == 0),
        OTHER: present & (position.incarnation != incarnation) & (position.incarnation > 0),
    }
    usable = present & (position.incarnation == incarnation)
    begins = np.array([places.begins.get(s, 0) for s in range(states)], np.int64)
    why_not[LOST] = usable & (position.offset < begins[state])
    limit = np.array([_reached(places, log, s) for s in range(states)], np.int64)
    why_not[NOT_YET] = usable & (position.offset > limit[state])
    wanted = [a for a in view.aggregates if a.feature in set(features)]
    reach = max(a.window_ms + a.hop_ms for a in wanted)
    why_not[TOO_OLD] = usable & (position.as_of - reach <= _blind_until(view, places, log))
    usable &= ~np.logical_or.reduce([why_not[r] for r in (LOST, NOT_YET, TOO_OLD)])

    asked, index = _distinct(keys, position.offset, position.as_of, usable)
    types = column_types(view)
    spec = WindowSpec.of(wanted, {a.column: types[a.column] for a in wanted})
    rows = _rows_of(view, log)
    values = features_at_positions(
        spec,
        rows.keys,
        rows.event_time,
        _places_of(view, rows, places, states),
        rows.partition,
        rows.offset,
        rows.columns,
        keys.take(asked),
        position.as_of[asked],
        position.offset[asked],
    )
    layout = RowLayout({name: view.feature_types[name] for name in features})
    found = _stored(layout, values, position.as_of[asked])
    return Recomputed(found, np.where(keys.valid, index, -1), why_not)


def batch_rows(
    view: BatchView, features: Sequence[str], source: Any, config: Any, served: Served
) -> Recomputed:
    """Rows of a view that Feast materialised: the newest in its batch source at the as_of."""
    position = served.position(view.name)
    parts = [served.entity[key.name] for key in view.join_keys]
    keys = encode_entity_keys(parts)
    present = keys.valid & (position.incarnation >= 0)
    asked, index = _distinct(keys, position.offset, position.as_of, present)
    names = [key.name for key in view.join_keys]
    source = located(source, config)
    table = read_rows(source, [*names, *features], config)
    types = {key.name: table.schema.field(key.name).type for key in view.join_keys}
    entities = pa.table(
        {n: arrow_of(p.take(asked), types[n]) for n, p in zip(names, parts, strict=True)}
    )
    # A row's as_of is its timestamp cut to milliseconds.
    instants = pa.array(position.as_of[asked] * 1_000 + 999).cast(pa.timestamp("us", "UTC"))
    values = latest_rows(
        entities,
        instants,
        table,
        join_keys={name: name for name in names},
        features=features,
        timestamp_field=source.timestamp_field,
        created_field=source.created_timestamp_column or None,
        ttl_us=None,
    )
    columns = {name: _column(view, name, values.column(name)) for name in features}
    layout = RowLayout({name: view.feature_types[name] for name in features})
    found = _stored(layout, columns, position.as_of[asked])
    return Recomputed(
        found, np.where(keys.valid, index, -1), {AWAY: position.incarnation == UNKNOWN}
    )


def _states(view: View, parts: Sequence[Column], keys: BytesColumn, states: int) -> I64:
    """State partition of every key."""
    return murmur2(keys if view.shuffled else key_text(parts[0])) % states


def _rows_of(view: View, log: EventLog) -> EntityRows:
    counted = np.flatnonzero(log.counts)
    rows, _ = entity_rows(view, log.columns, log.event_time, log.partition, log.offset, counted)
    return rows


def _places_of(view: View, rows: EntityRows, places: Places, states: int) -> I64:
    if isinstance(places, Direct):
        return rows.offset  # a record in a partition that is not its key's was refused
    state = murmur2(rows.keys) % states
    found = np.full(len(rows), NOWHERE, np.int64)
    cells = state * (int(rows.partition.max(initial=0)) + 1) + rows.partition
    order = np.argsort(cells, kind="stable")
    edges = np.flatnonzero(np.diff(cells[order], prepend=-1, append=-1))
    for low, high in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        chosen = order[low:high]
        first = int(chosen[0])
        found[chosen] = places.of(
            int(state[first]), int(rows.partition[first]), rows.offset[chosen]
        )
    return found


def _reached(places: Places, log: EventLog, state: int) -> int:
    """The place up to which the events of a state partition are all in hand."""
    if isinstance(places, Direct):
        return log.ends.get(state, 0)
    return min(
        (int(places.of(state, p, np.array([end]))[0]) for p, end in log.ends.items()),
        default=NOWHERE,
    )


def _blind_until(view: View, places: Places, log: EventLog) -> int:
    """No event later than this is missing at the beginning; ms."""
    blind = [-NEVER_MS]
    for partition, begin in log.begins.items():
        if begin > places.first(partition):
            mine = log.counts & (log.partition == partition)
            first = np.flatnonzero(mine)[np.argmin(log.offset[mine])] if mine.any() else -1
            # What came before it was at most so much later, or this one would have been late.
            late = view.source.allowed_lateness_ms
            blind.append(int(log.event_time[first]) + late if first >= 0 else NEVER_MS)
    return max(blind)


def _distinct(keys: BytesColumn, offset: I64, as_of: I64, rows: Any) -> tuple[I64, I64]:
    """Vectors that stand for the distinct (key, offset, as_of) among `rows`, and for each vector
    which of them it has: their number (the absent row behind them) where it is not in `rows`.
    """
    chosen = np.flatnonzero(rows)
    _, key = distinct(keys.take(chosen))
    order = np.lexsort((as_of[chosen], offset[chosen], key))
    sorted_ = np.stack([key[order], offset[chosen][order], as_of[chosen][order]])
    new = np.ones(len(order), np.bool_)
    new[1:] = (sorted_[:, 1:] != sorted_[:, :-1]).any(axis=0)
    asked = chosen[order[new]]
    index = np.full(len(keys), len(asked), np.int64)
    index[chosen[order]] = np.cumsum(new) - 1
    return asked, index


def _stored(layout: RowLayout, values: Mapping[str, Column], as_of: I64) -> Rows:
    """The values as the store would give them back, and behind them a row that is not there."""
    packed = layout.pack(values, 0, 0, as_of, np.full(len(as_of), NEVER_MS, np.int64))
    return layout.unpack([*(packed.row(i) for i in range(len(packed))), None])


def _column(view: BatchView, name: str, values: Any) -> Column:
    kind = view.feature_types[name]
    what = f"{view.name}:{name} in its batch source"
    if kind == "UnixTimestamp":
        found = epoch_ms(values)
        return type(found)(found.values // 1_000, found.valid)
    kinds: dict[str, Any] = {"Bool": "bool", "String": "string"}
    number = "float64" if kind.startswith("Float") else "int64"
    return column_from_arrow(values, kinds.get(kind, number), what)


assert NO_ROW < 0
