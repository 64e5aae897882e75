"""Rows that several states make together are those that each makes alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import LIFETIME_MS, Aggregate
from streamsvc.features.engine import WindowState, age_together, emit_together
from streamsvc.features.spec import WindowSpec

TYPES: Any = {"name": "string", "paid": "float64"}
SPEC = WindowSpec.of(
    [
        Aggregate("name", "name", "latest", LIFETIME_MS, LIFETIME_MS),
        Aggregate("paid_1s", "paid", "sum", 1_000, 100),
        Aggregate("paid_4s", "paid", "max", 4_000, 500),
    ],
    TYPES,
)
# Longer than what there is room for at first.
KEYS = ["a", "b", "a long key " * 20]
NAMES = ["", "short", "a long name " * 30]
EVENT = st.tuples(
    st.sampled_from(KEYS),
    st.integers(0, 6_000),
    st.none() | st.sampled_from(NAMES),
    st.none() | st.sampled_from([1.0, 2.5]),
)
STATES = st.lists(st.lists(EVENT, max_size=6), min_size=1, max_size=3)


def states_of(events: list[list[tuple[Any, ...]]]) -> list[WindowState]:
    made = [WindowState(SPEC) for _ in events]
    for state, mine in zip(made, events, strict=True):
        apply(state, mine)
    return made


def apply(state: WindowState, events: list[tuple[Any, ...]]) -> None:
    if not events:
        return
    keys, at, names, paid = zip(*events, strict=True)
    n = np.arange(len(events))
    columns = {"name": strings(names), "paid": numeric([None if p is None else p for p in paid])}
    state.apply(strings(keys), np.array(at), np.zeros_like(n), n, columns)


def plain(rows: Any) -> list[Any]:
    values = {name: column.to_pylist() for name, column in rows.values.items()}
    parts = [rows.keys.to_bytes_list(), rows.as_of, rows.valid_until, rows.aged]
    return [len(rows), *(list(part) for part in parts), values]


@settings(deadline=None, max_examples=150)
@given(STATES, st.integers(0, 12_000), st.none() | st.integers(1, 2))
def test_together_is_one_by_one(
    events: list[list[tuple[Any, ...]]], clock: int, limit: int | None
) -> None:
    alone, together = states_of(events), states_of(events)
    made = emit_together(together)
    assert [plain(rows) for rows in made] == [plain(state.emit()) for state in alone]
    for state in (*alone, *together):
        state.advance(clock)
    while any(state.n_due for state in alone):
        made = age_together([(state, limit) for state in together])
        assert [plain(rows) for rows in made] == [plain(state.age(limit)) for state in alone]
    assert not any(state.n_due for state in together)
    left = [[(s.stats().keys, s.stats().tiles) for s in states] for states in (together, alone)]
    assert left[0] == left[1]


def test_a_limit_leaves_rows_for_later() -> None:
    """So that the comparison above compares something."""
    state = states_of([[("a", 0, "x", 1.0), ("b", 0, "y", 1.0)]])[0]
    emit_together([state])
    state.advance(5_500)
    assert [len(rows) for rows in age_together([(state, 1)])] == [1]
    assert [len(rows) for rows in age_together([(state, 5)])] == [1]
    assert [len(rows) for rows in age_together([(state, 5)])] == [0]
