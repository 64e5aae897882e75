"""Point-in-time values: what the windows held at given instants of the past.

The same kernels as online. Events come in slices of time, so that a history of any length passes
through bounded memory: within a slice one key after another in time order, and from slice to slice
only the tiles that are still inside a window.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, Columns
from streamsvc.features.arrays import key_arrays, longs, read_only
from streamsvc.features.emission import empty_texts, feature_columns
from streamsvc.features.kernels.layout import FAR_PAST, N_KEYS, NEVER
from streamsvc.features.kernels.replay import forget_before, intern_keys, look_up, replay
from streamsvc.features.spec import WindowSpec
from streamsvc.features.storage import SLICE, Storage

__all__ = ["History", "features_at"]


class History:
    """f(key, t) for n queries, over the events that `add` is given.

    A query without a key finds nothing.
    """

    def __init__(self, spec: WindowSpec, query_keys: BytesColumn, query_time: I64) -> None:
        queries = len(query_keys)
        self._spec = spec
        self._out = np.zeros((len(spec.features), queries), np.int64)
        self._valid = np.zeros((len(spec.features), queries), np.uint8)
        self._valid[list(spec.counts)] = True
        self._texts = empty_texts(spec, queries)
        self._time = longs(query_time)
        self._done = FAR_PAST
        self._store = store = Storage(spec)
        wanted = key_arrays(query_keys)
        self._slot = np.full(queries, -1, np.int64)
        for low in range(0, queries, SLICE):
            high = min(low + SLICE, queries)
            store.reserve(high - low)
            valid = read_only(query_keys.valid)
            store.complete(intern_keys, low, high, *wanted, valid, self._slot)

    @property
    def keys(self) -> int:
        """How many keys are asked for."""
        return int(self._store.state.meta[N_KEYS])

    @property
    def bytes(self) -> int:
        """Memory of the keys that are asked for and of the tiles held for them."""
        return self._store.bytes

    def add(
        self,
        keys: BytesColumn,
        event_time: I64,
        known: I64,
        partition: I64,
        offset: I64,
        columns: Columns,
        until: int | None = None,
    ) -> None:
        """All events known before `until` that no call before has given; None means all that is
        left. Answers the queries before `until`.

        Events come in any order and count from `known` >= event_time on; those without a key are
        left out. All arrays have shape (n,).
        """
        store = self._store
        words, valid, texts = self._spec.words(columns, len(keys))
        of_event = np.empty(len(keys), np.int64)
        present = read_only(keys.valid)
        look_up(store.state, self._spec.program, *key_arrays(keys), present, of_event)

        events = np.flatnonzero(of_event >= 0)
        end = NEVER if until is None else until
        rows = np.flatnonzero((self._slot >= 0) & (self._time >= self._done) & (self._time < end))
        self._done = end
        slot = np.concatenate((of_event[events], self._slot[rows]))
        time = np.concatenate((known[events], self._time[rows]))
        is_query = np.arange(len(slot)) >= len(events)
        order = np.lexsort((is_query, time, slot))
        steps = (slot[order], is_query[order], np.concatenate((events, rows))[order])
        at = (longs(event_time), longs(known), longs(partition), longs(offset))
        target = (self._out, self._valid, self._texts)
        store.complete(
            replay,
            0,
            len(order),
            *steps,
            *at,
            words,
            valid,
            texts,
            self._time,
            end,
            *target,
            texts=self._texts,
        )
        if until is not None:
            forget_before(store.state, self._spec.program, until)

    def values(self) -> dict[str, Column]:
        """The answers in the order of the queries: by feature, sorted, of the types in the spec."""
        return feature_columns(self._spec, self._out, self._valid, self._texts)


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
    history = History(spec, query_keys, query_time)
    history.add(events_keys, event_time, event_time, partition, offset, columns)
    return history.values()
