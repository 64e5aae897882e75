"""Point-in-time values against the definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamsvc.columns import BytesColumn, strings
from streamsvc.features.engine import WindowState
from streamsvc.features.history import features_at
from streamsvc.features.spec import WindowSpec

from .oracle import Oracle
from .streams import KEYS, TYPES, as_columns, event_lists, placed, specs

queries = st.lists(st.tuples(st.none() | st.sampled_from(KEYS), st.integers(-100, 300)))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), event_lists(max_size=40), queries, st.sampled_from([0, -1_000_001, 10**12]))
def test_history_equals_the_definition(
    aggregates: list[Any], events: list[Any], asked: list[Any], origin: int
) -> None:
    spec = WindowSpec.of(aggregates, TYPES)
    events = placed(events, origin, 0)
    oracle = Oracle(aggregates, events)
    times = np.array([origin + t for _, t in asked], np.int64)
    found = features_at(spec, *as_columns(events), strings([k for k, _ in asked]), times)
    assert list(found) == sorted(a.feature for a in aggregates)
    columns = {name: column.to_pylist() for name, column in found.items()}
    for i, (key, _) in enumerate(asked):
        row = {name: column[i] for name, column in columns.items()}
        # A query without a key finds no events.
        assert oracle.differences(b"\xff" if key is None else key, row, int(times[i])) == []


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow])
@given(specs(), event_lists(max_size=40, spread=3))
def test_history_equals_the_stream(aggregates: list[Any], events: list[Any]) -> None:
    """At every key's last row: the same kernels, so the same float32 vector, bit for bit."""
    spec = WindowSpec.of(aggregates, TYPES)
    state = WindowState(spec)
    arguments = as_columns(placed(events, 5_000, 0))
    state.apply(*arguments)
    rows = state.emit()
    clock = np.full(len(rows), state.clock_ms)
    found = features_at(spec, *arguments, rows.keys, clock)
    for name, column in rows.values.items():
        assert np.array_equal(column.valid, found[name].valid)
        if isinstance(column, BytesColumn):
            assert column.to_pylist() == found[name].to_pylist()
            continue
        live, past = column.values[column.valid], found[name].values[column.valid]
        if column.values.dtype == np.float64:
            np.testing.assert_allclose(live, past, rtol=1e-9, atol=1e-4)
        else:
            assert np.array_equal(live, past)
