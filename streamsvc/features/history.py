"""Point-in-time values: what the windows held at given instants of the past.

The same kernels as online, one key after another in time order, so that only one key's live tiles
are held at a time however long the history is.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import F64, I64, U8, Bools, BytesColumn, Columns, NumericColumn
from streamsvc.features.accumulate import accumulate
from streamsvc.features.arrays import key_arrays, longs
from streamsvc.features.emission import feature_columns
from streamsvc.features.fold import fold, settle
from streamsvc.features.jit import kernel
from streamsvc.features.key_index import find_key, insert_key, tag_of
from streamsvc.features.layout import State
from streamsvc.features.rings import create_tile, drop_oldest, find_tile, ring_count
from streamsvc.features.spec import COUNT, Program, WindowSpec
from streamsvc.features.storage import SLICE, Storage

__all__ = ["features_at"]


def features_at(
    spec: WindowSpec,
    events_keys: BytesColumn,
    event_time: I64,
    partition: I64,
    offset: I64,
    columns: Columns,
    query_keys: BytesColumn,
    query_time: I64,
) -> dict[str, NumericColumn]:
    """f(key, t) for every query, over all events with time <= t, in the order of the queries.

    Events may come in any order; those without a key are left out, and a query without a key
    finds nothing. Columns are sorted by feature, of the types in `spec.types`.
    """
    n, queries = len(events_keys), len(query_keys)
    words, valid = spec.words(columns, n)
    out = np.zeros((len(spec.features), queries), np.int64)
    counts = spec.program.outputs[:, 0] == COUNT
    out_valid = np.zeros((len(spec.features), queries), np.bool_)
    out_valid[spec.program.outputs[counts, 2]] = True

    store = Storage(spec)
    asked = np.full(queries, -1, np.int64)
    for low in range(0, queries, SLICE):
        high = min(low + SLICE, queries)
        store.reserve(high - low)
        store.complete(_intern, low, high, *key_arrays(query_keys), query_keys.valid, asked)
    of_event = np.empty(n, np.int64)
    _find(store.state, *key_arrays(events_keys), events_keys.valid, of_event)

    events = np.flatnonzero(of_event >= 0)
    rows = np.flatnonzero(asked >= 0)
    slot = np.concatenate((of_event[events], asked[rows]))
    time = np.concatenate((event_time[events], query_time[rows]))
    is_query = np.arange(len(slot)) >= len(events)
    order = np.lexsort((is_query, time, slot))
    store.complete(
        _replay,
        0,
        len(order),
        spec.program,
        slot[order],
        time[order],
        is_query[order],
        np.concatenate((events, rows))[order],
        longs(partition),
        longs(offset),
        words,
        valid,
        out,
        out.view(np.float64),
        out_valid,
    )
    return feature_columns(spec, out, out_valid)


@kernel
def _intern(
    st: State, data: U8, start: I64, end: I64, valid: Bools, where: I64, low: int, high: int
) -> int:
    for i in range(low, high):
        if not valid[i]:
            continue
        tag = tag_of(data, start[i], end[i])
        slot = find_key(st, tag, data, start[i], end[i])
        if slot < 0:
            slot = insert_key(st, tag, data, start[i], end[i])
            if slot < 0:
                return i
        where[i] = slot
    return high


@kernel
def _find(st: State, data: U8, start: I64, end: I64, valid: Bools, where: I64) -> None:
    for i in range(len(start)):
        where[i] = -1
        if valid[i]:
            where[i] = find_key(st, tag_of(data, start[i], end[i]), data, start[i], end[i])


@kernel
def _replay(
    st: State,
    pg: Program,
    slots: I64,
    times: I64,
    is_query: Bools,
    source: I64,
    partition: I64,
    offset: I64,
    words: I64,
    valid: Bools,
    out: I64,
    out_float: F64,
    out_valid: Bools,
    low: int,
    high: int,
) -> int:
    """Steps [low, high), sorted by key and time; step i is row `source[i]` of events or queries."""
    groups = len(pg.hop)
    tiles = np.empty(groups, np.int64)
    for i in range(low, high):
        slot = slots[i]
        time = times[i]
        if i > 0 and slots[i - 1] != slot:
            for group in range(groups):
                drop_oldest(st, pg, slots[i - 1], group, ring_count(st, slots[i - 1], group))
        if is_query[i]:
            settle(st, pg, slot, time)
            fold(st, pg, slot, out, out_float, out_valid, source[i])
            continue
        for group in range(groups):
            q = time // pg.hop[group]
            tile = find_tile(st, pg, slot, group, q)
            if tile < 0:
                settle(st, pg, slot, time)
                tile = create_tile(st, pg, slot, group, q)
                if tile < 0:
                    return i
            tiles[group] = tile
        e = source[i]
        for group in range(groups):
            accumulate(
                st.pool, pg, group, tiles[group], words, valid, e, time, partition[e], offset[e]
            )
    return high
