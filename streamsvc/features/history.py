"""Point-in-time values: what the windows held at given instants of the past.

The same kernels as online, one key after another in time order, so that only one key's live tiles
are held at a time however long the history is.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, Columns
from streamsvc.features.arrays import key_arrays, longs, read_only
from streamsvc.features.emission import empty_texts, feature_columns
from streamsvc.features.kernels.replay import intern_keys, look_up, replay
from streamsvc.features.spec import WindowSpec
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
) -> dict[str, Column]:
    """f(key, t) for every query, over all events with time <= t, in the order of the queries.

    Events may come in any order; those without a key are left out, and a query without a key
    finds nothing. Columns are sorted by feature, of the types in `spec.types`.
    """
    n, queries = len(events_keys), len(query_keys)
    words, valid, texts = spec.words(columns, n)
    out = np.zeros((len(spec.features), queries), np.int64)
    out_valid = np.zeros((len(spec.features), queries), np.uint8)
    out_valid[list(spec.counts)] = True
    out_texts = empty_texts(spec, queries)

    store = Storage(spec)
    wanted = key_arrays(query_keys)
    asked = np.full(queries, -1, np.int64)
    for low in range(0, queries, SLICE):
        high = min(low + SLICE, queries)
        store.reserve(high - low)
        store.complete(intern_keys, low, high, *wanted, read_only(query_keys.valid), asked)
    of_event = np.empty(n, np.int64)
    known = read_only(events_keys.valid)
    look_up(store.state, spec.program, *key_arrays(events_keys), known, of_event)

    events = np.flatnonzero(of_event >= 0)
    rows = np.flatnonzero(asked >= 0)
    slot = np.concatenate((of_event[events], asked[rows]))
    time = np.concatenate((event_time[events], query_time[rows]))
    is_query = np.arange(len(slot)) >= len(events)
    order = np.lexsort((is_query, time, slot))
    steps = (slot[order], is_query[order], np.concatenate((events, rows))[order])
    chunk = (longs(event_time), longs(partition), longs(offset), words, valid, texts)
    target = (longs(query_time), out, out_valid, out_texts)
    store.complete(replay, 0, len(order), *steps, *chunk, *target, texts=out_texts)
    return feature_columns(spec, out, out_valid, out_texts)
