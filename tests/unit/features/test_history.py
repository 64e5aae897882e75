"""Point-in-time values against the definition."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamsvc.columns import BytesColumn, numeric, strings
from streamsvc.definitions.plan import Aggregate
from streamsvc.features.engine import WindowState
from streamsvc.features.history import History, features_at
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


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    specs(),
    event_lists(max_size=40),
    st.lists(st.integers(0, 40) | st.integers(0, 400), min_size=40, max_size=40),
    queries,
    st.lists(st.integers(-50, 250), max_size=4),
)
def test_slices_of_time_change_nothing_and_events_count_once_known(
    aggregates: list[Any],
    events: list[Any],
    delays: list[int],
    asked: list[Any],
    cuts: list[int],
) -> None:
    spec = WindowSpec.of(aggregates, TYPES)
    events = placed(events, 0, 0)
    known = np.array([e.time + d for e, d in zip(events, delays, strict=False)], np.int64)
    times = np.array([t for _, t in asked], np.int64)
    history = History(spec, strings([k for k, _ in asked]), times)
    edges = [-(2**60), *sorted(cuts), 2**60]
    for low, high in pairwise(edges):
        part = np.flatnonzero((known >= low) & (known < high))
        keys, at, partition, offset, columns = as_columns([events[i] for i in part])
        until = None if high == edges[-1] else high
        history.add(keys, at, known[part], partition, offset, columns, until)
    columns = {name: column.to_pylist() for name, column in history.values().items()}
    for i, (key, _) in enumerate(asked):
        t = int(times[i])
        heard = [e for e, k in zip(events, known.tolist(), strict=True) if k <= t]
        row = {name: column[i] for name, column in columns.items()}
        name = b"\xff" if key is None else key
        assert Oracle(aggregates, heard).differences(name, row, t) == []


def test_what_a_slice_leaves_behind_is_what_windows_still_hold() -> None:
    spec = WindowSpec.of([Aggregate("n", "price", "count", 100, 10)], TYPES)
    n = 50_000
    keys = [b"%d" % (i // 10) for i in range(n)]
    history = History(spec, strings(keys[::10]), np.full(n // 10, n - 1, np.int64))
    sizes = []
    for low in range(0, n, 5_000):
        part = slice(low, low + 5_000)
        at = np.arange(n)[part]
        prices = {"price": numeric(np.ones(5_000))}
        history.add(strings(keys[part]), at, at, at * 0, at, prices, low + 5_000)
        sizes.append(history.bytes)
    # Ten keys are alive at a time, of five thousand.
    assert sizes[-1] == sizes[1]
    assert history.values()["n"].to_pylist()[-10:] == [10] * 10
