"""What the windows held when a log had been applied up to a position: the values of a stored row.

As `history`, but an event counts for a query by its place in the log, not by its time. A stored row
is f(key, as_of) over the records before its offset, whatever was to come.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, Columns
from streamsvc.features.arrays import key_arrays, longs, read_only
from streamsvc.features.emission import empty_texts, feature_columns
from streamsvc.features.kernels.layout import NEVER
from streamsvc.features.kernels.replay import intern_keys, look_up, replay
from streamsvc.features.spec import WindowSpec
from streamsvc.features.storage import SLICE, Storage

__all__ = ["features_at_positions"]


def features_at_positions(
    spec: WindowSpec,
    events_keys: BytesColumn,
    event_time: I64,
    place: I64,
    partition: I64,
    offset: I64,
    columns: Columns,
    query_keys: BytesColumn,
    query_time: I64,
    query_place: I64,
) -> dict[str, Column]:
    """f(key, t) for every query over the events whose place is before the query's.

    `place` is where a log holds the event, `query_place` the next offset of that log; the query's
    time must not be before an event that it sees, nor before that of the same key's query at an
    earlier place, as the as_of of stored rows never is. Otherwise as `history.features_at`.
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
    look_up(
        store.state,
        spec.program,
        *key_arrays(events_keys),
        read_only(events_keys.valid),
        of_event,
    )

    events = np.flatnonzero(of_event >= 0)
    rows = np.flatnonzero(asked >= 0)
    slot = np.concatenate((of_event[events], asked[rows]))
    # A query comes before the event at its own place. What one place holds of several partitions
    # is in the order of partitions: the order of arrival is not known, and changes last bits only.
    where = np.concatenate((place[events], query_place[rows]))
    is_event = np.arange(len(slot)) < len(events)
    then = np.concatenate((partition[events], query_time[rows]))
    last = np.concatenate((offset[events], np.zeros(len(rows), np.int64)))
    order = np.lexsort((last, then, is_event, where, slot))
    steps = (slot[order], ~is_event[order], np.concatenate((events, rows))[order])
    at = longs(event_time)
    chunk = (at, at, longs(partition), longs(offset), words, valid, texts)
    target = (longs(query_time), NEVER, out, out_valid, out_texts)
    store.complete(replay, 0, len(order), *steps, *chunk, *target, texts=out_texts)
    return feature_columns(spec, out, out_valid, out_texts)
