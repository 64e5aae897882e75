"""What a state holds is bounded by what is alive, whatever has been through it."""

from __future__ import annotations

import errno
import mmap
from typing import Any

import numpy as np
import pytest

from streamsvc.columns import BytesColumn, NumericColumn, strings
from streamsvc.definitions.plan import Aggregate
from streamsvc.features import memory, storage
from streamsvc.features.engine import WindowState
from streamsvc.features.memory import Growable
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch

AGGREGATES = [
    Aggregate("mean_short", "v", "mean", 1_000, 100),
    Aggregate("std_long", "v", "std", 5_000, 500),
    Aggregate("last_long", "v", "last", 5_000, 500),
]


def new_state() -> WindowState:
    return WindowState(WindowSpec.of(AGGREGATES, {"v": "float64"}))


def apply(state: WindowState, keys: BytesColumn, at: Any) -> int:
    n = len(keys)
    at = np.broadcast_to(np.asarray(at, np.int64), n)
    values = NumericColumn(np.arange(n, dtype=np.float64), np.ones(n, np.bool_))
    return state.apply(keys, at, np.zeros(n, np.int64), np.arange(n), {"v": values})


def free_units(state: WindowState) -> int:
    tags = state._storage.state.tags
    return int((1 << (tags[tags > 0].astype(np.int64) - 1)).sum())


def test_churning_keys_leave_nothing_behind() -> None:
    """Every key comes once. Lengths vary, so that blocks must be split and merged to be reused."""
    state = new_state()
    sizes = []
    last_rows = 0
    for step in range(120):
        keys = strings([f"key-{step}-{i}-" + "x" * (i * step % 61) for i in range(500)])
        apply(state, keys, 1_000_000 + step * 250 + np.arange(500) // 2)
        state.emit()
        last_rows += int((state.age().valid_until == 2**63 - 1).sum())
        state.take_changed_tiles()
        sizes.append(state.stats().bytes)
    assert state.stats().keys + last_rows == 120 * 500
    assert state.stats().keys <= 500 * 25
    assert max(sizes[40:]) == sizes[39]
    state.advance(10_000_000)
    state.age()
    assert (state.stats().keys, state.stats().tiles) == (0, 0)
    assert free_units(state) == len(state._storage.state.tags)


def test_keys_that_go_and_come_back_are_found_again() -> None:
    """Every deletion shifts entries of the index; none may be lost, and none found twice."""
    spec = WindowSpec.of([Aggregate("n", "v", "count", 1_000, 100)], {"v": "float64"})
    state, rng = WindowState(spec), np.random.default_rng(5)
    seen: dict[bytes, list[int]] = {}
    for step in range(300):
        at = 1_000_000 + step * 130
        names = [f"key {i}".encode() for i in rng.integers(0, 3_000, 200)]
        apply(state, strings(names), at)
        for name in names:
            seen.setdefault(name, []).append(at)
        rows = state.emit()
        left = (at - 1_000) // 100 * 100
        seen = {k: alive for k, v in seen.items() if (alive := [t for t in v if t >= left])}
        got = zip(rows.keys.to_bytes_list(), rows.values["n"].to_pylist(), strict=True)
        assert dict(got) == {name: len(seen[name]) for name in names}
        state.age()
        assert state.stats().keys == len(seen)


def test_ageing_without_emit_does_not_fill_the_queues() -> None:
    state = new_state()
    for step in range(50):
        apply(state, strings([f"{step}-{i}" for i in range(100)]), 1_000_000 + step * 10_000)
        state.age()
    assert state.stats().keys == 100
    assert state.n_changed == 100
    assert len(state.emit()) == 100
    assert len(state._storage.state.queue) < 1_000


def test_an_evicted_key_gets_one_last_row() -> None:
    state = new_state()
    apply(state, strings(["a"]), [1_000])
    state.emit()
    state.advance(6_500)
    rows = state.age()
    assert rows.keys.to_bytes_list() == [b"a"]
    assert {n: c.to_pylist() for n, c in rows.values.items()} == {
        "last_long": [None],
        "mean_short": [None],
        "std_long": [None],
    }
    assert rows.as_of.tolist() == [6_500]
    assert rows.valid_until.tolist() == [2**63 - 1]
    assert len(state.age()) == 0
    assert state.next_due_ms is None
    batch = state.take_changed_tiles()
    assert len(batch) == 0
    again = new_state()
    again.load(TileBatch.from_bytes(batch.to_bytes()))
    assert again.clock_ms == batch.aged_ms == 6_500


def test_a_burst_is_aged_in_slices() -> None:
    state = new_state()
    n = 20_000
    ids = strings([f"k{i}" for i in range(n)])
    apply(state, ids, 1_000_000)
    assert len(state.emit()) == n
    state.advance(1_001_100)
    assert state.n_due == n
    seen: list[bytes | None] = []
    while state.n_due:
        rows = state.age(3_000)
        assert 0 < len(rows) <= 3_000
        # Whatever is not aged yet is still owed after a restart.
        assert state.take_changed_tiles().aged_ms == (1_001_099 if state.n_due else 1_001_100)
        seen += rows.keys.to_bytes_list()
    assert sorted(seen) == sorted(ids.to_bytes_list())  # type: ignore[type-var]


def test_keys_longer_than_the_buffer() -> None:
    state = new_state()
    keys = [bytes([65 + i]) * (10_000 * i) for i in range(20)]
    apply(state, strings(keys), 5_000)
    assert state.emit().keys.to_bytes_list() == keys


def test_expired_events_are_counted_and_change_nothing() -> None:
    state = new_state()
    assert apply(state, strings(["a", "b", "a"]), [10_000, 4_000, 4_499]) == 2
    assert state.stats().expired == 2
    assert state.emit().keys.to_bytes_list() == [b"a"]
    assert state.n_changed == 0


@pytest.mark.parametrize("shape", [(4,), (4, 3)])
def test_growable_keeps_its_content_across_sizes(shape: tuple[int, ...]) -> None:
    growable = Growable(shape, np.int64)
    growable.array[:] = 7
    for n in (10, 1_000, 1 << 20, 3 << 20):
        before = len(growable.array)
        growable.grow(n)
        assert growable.array.shape == (n, *shape[1:])
        assert (growable.array[: min(before, 4)] == 7).all()
        assert (growable.array[before:] == 0).all()


def test_a_large_array_grows_in_place_on_whole_huge_pages() -> None:
    growable = Growable((1, 4), np.int64)
    growable.grow(1 << 18)
    place = growable.array.ctypes.data
    assert place % (2 << 20) == 0
    growable.array[-1] = 7
    for n in (1 << 19, 1 << 20, 1 << 21):
        growable.grow(n)
        assert growable.array.ctypes.data == place
    assert np.flatnonzero(growable.array[:, 0]).tolist() == [(1 << 18) - 1]


def test_where_address_space_is_limited_an_array_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    real, room = mmap.mmap, 64 << 20

    def limited(fd: int, size: int, flags: int) -> mmap.mmap:
        if size > room:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return real(fd, size, flags=flags)

    monkeypatch.setattr(memory.mmap, "mmap", limited)
    growable = Growable((1,), np.int64)
    for n in (1 << 20, 1 << 21, 1 << 22):
        growable.grow(n)
        growable.array[-1] = n
    assert np.flatnonzero(growable.array).tolist() == [(1 << k) - 1 for k in (20, 21, 22)]


class Moving(Growable[Any]):
    """Moves whenever it grows, and leaves nonsense behind for whoever still looks there."""

    def grow(self, n: int) -> None:
        before = self._array
        self._array = np.zeros((n, *before.shape[1:]), before.dtype)
        self._array[: len(before)] = before
        before.view(np.uint8)[:] = 0xDB


def life() -> list[Any]:
    """All that a state tells in a life in which its arrays grow in the middle of every call."""
    state, again, merged = new_state(), new_state(), new_state()
    rng, told = np.random.default_rng(3), []
    for step in range(12):
        n = 200 << step // 2
        keys = strings([f"{i} {'x' * (i % 40)}" for i in rng.integers(0, 3 * n, n).tolist()])
        apply(state, keys, 1_000_000 + np.sort(rng.integers(0, 3_000, n)) + step * 700)
        told += [state.emit(), state.age(n // 8)]
        changed = state.take_changed_tiles()
        again.load(TileBatch.from_bytes(changed.to_bytes()))
        whole, _ = state.take_next(n)
        again.load(whole)
    merged.merge(state.snapshot())
    for each in (again, merged):
        each.mark_all_changed()
        told.append(each.emit())
    return [
        (row.keys.to_bytes_list(), {name: c.to_pylist() for name, c in row.values.items()})
        for row in told
    ]


def test_nobody_looks_into_an_array_that_has_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = life()
    monkeypatch.setattr(storage, "Growable", Moving)
    assert life() == wanted
