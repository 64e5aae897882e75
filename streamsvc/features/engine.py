"""WindowState: the windows of one view in one partition.

>>> from streamsvc.columns import numeric, strings
>>> from streamsvc.definitions.plan import Aggregate
>>> spec = WindowSpec.of([Aggregate("paid", "amount", "sum", 10_000, 1_000)], {"amount": "float64"})
>>> state = WindowState(spec)
>>> at, partition, offset = np.array([1_500, 2_500]), np.array([0, 0]), np.array([0, 1])
>>> state.apply(strings(["a", "a"]), at, partition, offset, {"amount": numeric([3.0, 4.0])})
0
>>> row = state.emit()
>>> row.values["paid"].to_pylist(), row.as_of.tolist(), row.valid_until.tolist()
([7.0], [2500], [12000])
>>> state.advance(12_000)
>>> row = state.age()
>>> row.values["paid"].to_pylist(), row.as_of.tolist(), row.valid_until.tolist()
([4.0], [12000], [13000])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from streamsvc.columns import I64, BytesColumn, Columns
from streamsvc.features.arrays import key_arrays, longs
from streamsvc.features.emission import Emission, Emitted, EventRows, emission_of, empty_rows
from streamsvc.features.kernels.apply import Batch, enqueue_all, locate, update
from streamsvc.features.kernels.each import ROWS, update_each
from streamsvc.features.kernels.emit import Rows, emit_changed, emit_due, sweep
from streamsvc.features.kernels.layout import (
    BUCKET_TOP,
    CLOCK,
    COUNT,
    EXPIRED,
    KEY_ID,
    LIFETIME,
    N_CHANGED,
    N_KEYS,
    N_TILES,
    NEED_KEY,
    SLOT_TOP,
    TEXT_TOP,
    TIME,
    State,
)
from streamsvc.features.kernels.load import load
from streamsvc.features.kernels.merge import merge
from streamsvc.features.kernels.persist import measure, reach, take
from streamsvc.features.kernels.program import Program
from streamsvc.features.kernels.schedule import next_due
from streamsvc.features.spec import WindowSpec
from streamsvc.features.storage import SLICE, Storage, grow_texts
from streamsvc.features.tile_batch import TileBatch, arrays_of, batch_of, empty_tiles

__all__ = ["EngineStats", "WindowState", "age_together", "emit_together"]

Step: TypeAlias = Callable[[State, Program, Rows, int, int], int]
"""A kernel that makes rows [row, stop), and says how far it came."""


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What a state holds: live keys and tiles, bytes of its arrays, events expired on arrival."""

    keys: int
    tiles: int
    bytes: int
    expired: int


PIECE_BYTES = 8_192
"""What the objects around the arrays of `EventRows` take, about."""


class WindowState:
    """Tiles of many keys, their values, and when they change. Calls must not overlap.

    `apply` and `advance` move the clock; rows are values as of the clock. Write all that `emit`
    returns before persisting `take_changed_tiles`: a restored key counts as written.
    """

    def __init__(self, spec: WindowSpec) -> None:
        self.spec = spec
        self._storage = Storage(spec)
        self._passed = 0
        """Slots that `take_next` has been through in this round."""
        self._next_due: int | None = None  # as the kernels say; None when it has to be asked again

    @property
    def clock_ms(self) -> int:
        """The greatest event time applied or instant advanced to; -2^62 before the first."""
        return int(self._storage.state.meta[CLOCK])

    @property
    def n_changed(self) -> int:
        """Keys that wait in `emit`."""
        return int(self._storage.state.meta[N_CHANGED])

    @property
    def next_due_ms(self) -> int | None:
        """The earliest instant at which a key's values change by age, None without keys."""
        if self._next_due is None:
            self._next_due = int(next_due(self._storage.state, self.spec.program))
        return None if self._next_due >= LIFETIME else self._next_due

    @property
    def n_due(self) -> int:
        """Keys that wait in `age`."""
        due = self.next_due_ms
        if due is None or due > self.clock_ms:
            return 0
        st = self._storage.state
        buckets = st.buckets[: int(st.meta[BUCKET_TOP])]
        return int(buckets[buckets[:, TIME] <= self.clock_ms, COUNT].sum())

    def apply(
        self, keys: BytesColumn, event_time: I64, partition: I64, offset: I64, columns: Columns
    ) -> int:
        """Add events, in any order; `partition` and `offset` order those of one instant.

        Every key must be valid. Returns how many were outside every window at their clock (the
        greatest event time up to them, or what `advance` set); those change nothing.
        """
        store = self._storage
        expired = int(store.state.meta[EXPIRED])
        for low, high, batch in self._located(keys, event_time, partition, offset, columns):
            store.complete(update, low, high, batch)
        return int(store.state.meta[EXPIRED]) - expired

    def apply_each(
        self, keys: BytesColumn, event_time: I64, partition: I64, offset: I64, columns: Columns
    ) -> EventRows:
        """As `apply`, with the row of every event that changes something as it was right after it.

        What `emit` returns stays the same.
        """
        store, program, n = self._storage, self.spec.program, len(keys)
        rows, event, done = empty_rows(self.spec, n), np.empty(n, np.int64), np.zeros(2, np.int64)
        store.state.meta[TEXT_TOP] = 0
        instants = len(program.hop) + 1
        for low, high, batch in self._located(keys, event_time, partition, offset, columns):
            store.reserve_instants((high - low) * instants)
            at = low
            while (
                at := update_each(store.state, program, batch, rows, event, done, at, high)
            ) < high:
                if not self._grow(rows):
                    store.grow_pool()
        of = event[: int(done[ROWS])]
        nbytes = PIECE_BYTES + sum(array.nbytes for array in rows) + 3 * of.nbytes
        made = emission_of(self.spec, rows, len(of))
        return EventRows(made, of, partition[of], offset[of], nbytes)

    def advance(self, clock_ms: int) -> None:
        """Move the clock forward; an earlier instant changes nothing."""
        meta = self._storage.state.meta
        meta[CLOCK] = max(int(meta[CLOCK]), clock_ms)

    def emit(self, limit: int | None = None) -> Emission:
        """Rows of the keys that changed, oldest change first, at most `limit`."""
        [made] = emit_together([self], limit)
        return made.of

    def age(self, limit: int | None = None) -> Emission:
        """Rows of the keys whose `valid_until` has come, earliest first, at most `limit`.

        Expired tiles go; a key without tiles gets a last row (count 0, all else null) and goes.
        """
        [made] = age_together([(self, limit)])
        return made.of

    def mark_all_changed(self) -> None:
        """Let `emit` return every key: to fill a store that lost its rows."""
        enqueue_all(self._storage.state, self.spec.program)

    def take_changed_tiles(self) -> TileBatch:
        """Tiles that changed since the last take, whole."""
        return self._take(self._storage.take_dirty(), everything=False)

    def take_next(self, words: int) -> tuple[TileBatch, bool]:
        """Keys with all their tiles, about so many words of them: a part of a rolling snapshot.

        Goes on where the last call ended. True says that this call ends a round. What was taken in
        it, by this and by `take_changed_tiles` since the call that began it, is then all that there
        is: a key keeps its slot, and one that came or moved meanwhile has changed. Does not count
        as a take.
        """
        st, low = self._storage.state, self._passed
        high = int(reach(st, self.spec.program, low, words))
        live = low + np.flatnonzero(st.slots[low:high, KEY_ID] >= 0)
        ended = high >= int(st.meta[SLOT_TOP])
        self._passed = 0 if ended else high
        return self._take(live, everything=True), ended

    def snapshot(self) -> TileBatch:
        """All tiles. Does not count as a take."""
        st = self._storage.state
        live = st.slots[: int(st.meta[SLOT_TOP]), KEY_ID] >= 0
        return self._take(np.flatnonzero(live), everything=True)

    def load(self, tiles: TileBatch) -> None:
        """Put a batch in place of what is there for its keys and tiles, in the order of taking.

        Loaded keys do not count as changed. Raises IntegrityError for a batch of another spec.
        """
        store, program = self._storage, self.spec.program
        self._next_due = None
        batch = arrays_of(tiles, self.spec, store.state)
        for low in range(0, len(tiles.keys), SLICE):
            high = min(low + SLICE, len(tiles.keys))
            store.reserve(high - low)
            store.complete(load, low, high, batch, tiles.aged_ms)
        swept = SLICE
        while swept == SLICE:
            store.reserve_instants(SLICE)
            swept = sweep(store.state, program, tiles.aged_ms, SLICE)
        self.advance(int(tiles.as_of.max(initial=tiles.aged_ms)))

    def merge(self, tiles: TileBatch) -> None:
        """Add a snapshot of other events of the same view, taken at the clock that is here too.

        Keys of the batch do not count as changed. Raises IntegrityError for a batch of another
        spec.
        """
        store = self._storage
        self._next_due = None
        self.advance(tiles.aged_ms)
        batch = arrays_of(tiles, self.spec, store.state)
        key_of = np.repeat(np.arange(len(tiles.keys)), tiles.tiles)
        for low in range(0, len(tiles), SLICE):
            high = min(low + SLICE, len(tiles))
            store.reserve(high - low)
            store.complete(merge, low, high, batch, key_of)

    def stats(self) -> EngineStats:
        """Size of the state."""
        meta = self._storage.state.meta
        keys, tiles, expired = (int(meta[k]) for k in (N_KEYS, N_TILES, EXPIRED))
        return EngineStats(keys, tiles, self._storage.bytes, expired)

    def _located(
        self, keys: BytesColumn, event_time: I64, partition: I64, offset: I64, columns: Columns
    ) -> Iterator[tuple[int, int, Batch]]:
        """Slices [low, high) of all events, those that are given; the slice's keys have slots.

        Moves the clock when the last slice is done.
        """
        n = len(keys)
        if n == 0:
            return
        store = self._storage
        self._next_due = None
        times = longs(event_time)
        clocks = longs(np.maximum(np.maximum.accumulate(times), self.clock_ms))
        where = np.empty(n, np.int64)
        locating = (*key_arrays(keys), times, clocks, where)
        words, valid, texts = self.spec.words(columns, n)
        batch = Batch(times, longs(partition), longs(offset), words, valid, texts, clocks, where)
        for low in range(0, n, SLICE):
            high = min(low + SLICE, n)
            store.reserve(high - low)
            store.complete(locate, low, high, *locating)
            yield low, high, batch
        store.state.meta[CLOCK] = clocks[-1]

    def _fill(self, step: Step, rows: Rows, row: int, stop: int) -> None:
        """Rows [row, stop), behind those of others."""
        self._next_due = None
        while row < stop:
            self._storage.reserve_instants(SLICE)
            st = self._storage.state
            row = step(st, self.spec.program, rows, row, min(row + SLICE, stop))
            self._grow(rows)

    def _grow(self, rows: Rows) -> bool:
        """Room for the key or the text that a kernel stopped for, if it did; whether it did."""
        wanted = int(self._storage.state.meta[NEED_KEY])
        if wanted <= len(rows.keys):
            return grow_texts(rows.texts, self._storage.state)
        rows.keys.resize(max(2 * len(rows.keys), wanted), refcheck=False)
        return True

    def _take(self, slots: I64, *, everything: bool) -> TileBatch:
        due = self.next_due_ms
        aged = self.clock_ms if due is None else min(self.clock_ms, due - 1)
        st, program = self._storage.state, self.spec.program
        sizes = np.zeros(4, np.int64)
        measure(st, program, slots, everything, sizes)
        out = empty_tiles(self.spec, *sizes.tolist())
        take(st, program, slots, everything, out)
        return batch_of(out, aged)


def emit_together(states: Sequence[WindowState], limit: int | None = None) -> list[Emitted]:
    """`WindowState.emit` of each, all of one spec: rows of few keys take as long as those of many.

    `limit` is for each.
    """
    return _together(emit_changed, [(state, _least(state.n_changed, limit)) for state in states])


def age_together(states: Sequence[tuple[WindowState, int | None]]) -> list[Emitted]:
    """`WindowState.age` of each with its limit, all of one spec."""
    return _together(emit_due, [(state, _least(state.n_due, limit)) for state, limit in states])


def _least(waiting: int, limit: int | None) -> int:
    return waiting if limit is None else min(limit, waiting)


def _together(step: Step, wanted: Sequence[tuple[WindowState, int]]) -> list[Emitted]:
    spec = wanted[0][0].spec
    n = sum(rows for _, rows in wanted)
    rows, row, texts = empty_rows(spec, n), 0, 0
    parts: list[slice] = []
    for state, some in wanted:
        meta = state._storage.state.meta
        meta[TEXT_TOP] = texts
        state._fill(step, rows, row, row + some)
        texts = int(meta[TEXT_TOP])
        parts.append(slice(row, row + some))
        row += some
    made = emission_of(spec, rows, n)
    return [Emitted(made, part) for part in parts]
