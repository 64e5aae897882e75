"""The claim of a row, f(key, t) for as_of <= t < valid_until, where something was forgotten."""

from __future__ import annotations

import numpy as np

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import Aggregate
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch

SPEC = WindowSpec.of(
    [Aggregate("short", "v", "sum", 1_000, 100), Aggregate("long", "v", "sum", 5_000, 500)],
    {"v": "float64"},
)


def apply(state: WindowState, key: str, at: int) -> int:
    zero = np.zeros(1, np.int64)
    return state.apply(strings([key]), np.array([at]), zero, zero, {"v": numeric([1.0])})


def restored(state: WindowState, *log: TileBatch) -> WindowState:
    again = WindowState(SPEC)
    for batch in log:
        again.load(TileBatch.from_bytes(batch.to_bytes()))
    again.advance(state.clock_ms)
    return again


def test_a_late_event_for_an_evicted_key_claims_nothing_about_before() -> None:
    state = WindowState(SPEC)
    apply(state, "a", 1_000)
    state.emit()
    state.advance(6_600)
    assert state.age().valid_until.tolist() == [2**63 - 1]
    # Inside the long window still, but until 6,500 so was the event that is forgotten.
    assert apply(state, "a", 3_000) == 0
    rows = state.emit()
    assert rows.values["long"].to_pylist() == [1.0]
    assert 6_500 <= rows.as_of[0] <= 6_600


def test_an_expired_event_ends_the_claim_and_survives_a_restart() -> None:
    state = WindowState(SPEC)
    apply(state, "a", 5_000)
    state.emit()
    state.advance(9_900)
    assert state.age().as_of.tolist() == [6_100]
    first = state.take_changed_tiles()
    # It counted until 9,500, in rows that nobody can write any more.
    assert apply(state, "a", 4_000) == 1
    assert state.n_changed == 0
    second = state.take_changed_tiles()
    assert len(second) == 0
    for each in (state, restored(state, first, second)):
        each.mark_all_changed()
        rows = each.emit()
        assert rows.as_of.tolist() == [9_500]
        assert rows.values["long"].to_pylist() == [1.0]


def test_what_an_emitted_row_covers_is_not_due_again_after_a_restart() -> None:
    # One hop: the tile that has left the short window is still held for the long one.
    shared = [Aggregate(f"w{w}", "v", "sum", w, 100) for w in (1_000, 5_000)]
    spec = WindowSpec.of(shared, {"v": "float64"})
    state, again = WindowState(spec), WindowState(spec)
    apply(state, "a", 1_000)
    apply(state, "b", 1_000)
    state.emit()
    state.advance(2_100)
    # Both are due; the row that is emitted for an event of `b` says all there is to say.
    apply(state, "b", 2_100)
    state.emit()
    batch = state.take_changed_tiles()
    assert batch.aged_ms == 2_099
    again.load(batch)
    assert again.clock_ms == 2_100
    assert state.n_due == again.n_due == 1
    assert again.age().keys.to_bytes_list() == [b"a"]
