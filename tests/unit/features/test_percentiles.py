"""Percentiles against the exact ones of skewed data."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import LIFETIME_MS, Aggregate, FieldType
from streamsvc.features.engine import WindowState
from streamsvc.features.history import features_at
from streamsvc.features.kernels.percentiles import MOST_BUCKETS
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch

ACCURACY = 1 / 129
PERCENTS = (1, 5, 25, 50, 75, 90, 95, 99)
DAY = 86_400_000


def spec_of(
    kind: FieldType = "float64", window: int = DAY, hop: int = DAY, percents: Any = PERCENTS
) -> WindowSpec:
    return WindowSpec.of(
        [Aggregate(f"p{p}", "v", f"p{p}", window, hop) for p in percents], {"v": kind}
    )


def apply(state: WindowState, values: Any, time: Any = 5) -> None:
    n = len(values)
    at = np.broadcast_to(np.asarray(time, np.int64), n)
    columns = {"v": numeric(values)}
    state.apply(strings(["k"] * n), at, np.zeros(n, np.int64), np.arange(n), columns)


def row_of(state: WindowState) -> dict[int, Any]:
    values = state.emit().values
    return {int(name[1:]): column.to_pylist()[0] for name, column in values.items()}


def exact(values: Any, percent: int) -> float:
    return float(np.sort(values)[percent * (len(values) - 1) // 100])


def check(found: dict[int, Any], values: Any) -> None:
    for percent, got in found.items():
        want = exact(values, percent)
        assert abs(got - want) <= abs(want) * ACCURACY * (1 + 1e-12), (percent, got, want)


RNG = np.random.default_rng(1)
DATA = {
    "lognormal": RNG.lognormal(3.0, 2.0, 50_000),
    "zipf": (RNG.zipf(1.3, 50_000) % 10**15).astype(float),
    "pareto": RNG.pareto(0.9, 50_000),
    "negative": -RNG.lognormal(0.0, 1.5, 50_000),
    "both signs and zeros": RNG.normal(0.0, 1.0, 50_000) * (RNG.random(50_000) < 0.8),
    "constant": np.full(1_000, 42.5),
    "zeros": np.array([0.0, -0.0] * 50),
    "tiny": RNG.lognormal(-600.0, 1.0, 5_000),
    "huge": RNG.lognormal(600.0, 1.0, 5_000),
    "infinite": np.array([1.0, 2.0, np.inf, np.inf, np.inf, -np.inf]),
    "one": np.array([-3.25]),
    "two": np.array([1.0, 100.0]),
}


@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("hop", [DAY, DAY // 60])
def test_every_percentile_is_within_its_bound(name: str, hop: int) -> None:
    values = DATA[name]
    state = WindowState(spec_of(hop=hop, percents=range(1, 100)))
    at = np.random.default_rng(2).integers(DAY, DAY + DAY // 2, len(values))
    apply(state, values, at)
    found = row_of(state)
    if name == "infinite":
        assert found[1] == -np.inf
        assert found[99] == np.inf
        assert abs(found[20] - 1.0) <= ACCURACY * (1 + 1e-12)
    else:
        check(found, values)


@settings(deadline=None, max_examples=200)
@given(
    st.lists(
        st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False, width=64)
        | st.sampled_from([0.0, -0.0, 1.0, 2.0, 1.9999999999999998, 1.7976931348623157e308]),
        min_size=1,
        max_size=60,
    ),
    st.sampled_from([DAY, 1_000]),
)
def test_any_numbers(values: list[float], hop: int) -> None:
    state = WindowState(spec_of(hop=hop))
    apply(state, values, DAY + np.arange(len(values)) * 700)
    check(row_of(state), np.array(values))


def test_integers_are_numbers_and_nulls_are_none() -> None:
    state = WindowState(spec_of("int64"))
    apply(state, [3, None, -(2**62), 2**62, 5, None])
    check(row_of(state), np.array([3, -(2**62), 2**62, 5], float))
    state = WindowState(spec_of())
    apply(state, [None, float("nan")])
    assert set(row_of(state).values()) == {None}


def words_of(state: WindowState) -> list[int]:
    words: list[int] = state.snapshot().words.tolist()
    return words


def test_the_sketch_depends_on_the_numbers_alone() -> None:
    """Order, chunks and restarts change nothing, even where buckets are collapsed."""
    rng = np.random.default_rng(4)
    values = np.exp(rng.uniform(-40, 40, 9_000))
    spec = spec_of(window=LIFETIME_MS, hop=LIFETIME_MS)
    seen = set()
    for _ in range(4):
        values = rng.permutation(values)
        state = WindowState(spec)
        cuts = [0, *sorted(rng.integers(0, len(values), 5).tolist()), len(values)]
        for low, high in pairwise(cuts):
            apply(state, values[low:high])
            again = WindowState(spec)
            again.load(TileBatch.from_bytes(state.snapshot().to_bytes()))
            state = again
        seen.add(tuple(words_of(state)))
        assert words_of(state)[1] == MOST_BUCKETS
    assert len(seen) == 1


def test_collapsing_costs_the_lowest_percentiles_only() -> None:
    """115 powers of two are 7,400 buckets; the greatest 2,047 of them hold the upper quarter."""
    values = np.exp(np.random.default_rng(5).uniform(-40, 40, 100_000))
    state = WindowState(spec_of(percents=range(1, 100)))
    apply(state, values)
    found = row_of(state)
    check({p: v for p, v in found.items() if p >= 75}, values)
    # Below, the answer is the lowest bucket that is left: too great, and never less than the truth.
    assert all(found[p] > exact(values, p) for p in range(1, 65))


def test_history_has_the_same() -> None:
    rng = np.random.default_rng(6)
    values = rng.lognormal(2.0, 1.0, 3_000)
    at = np.sort(rng.integers(DAY, 3 * DAY, len(values)))
    spec = spec_of(hop=DAY // 24)
    n = len(values)
    asked = np.array([DAY - 1, DAY + DAY // 3, 2 * DAY + 77, 3 * DAY])
    found = features_at(
        spec,
        strings(["k"] * n),
        at,
        np.zeros(n, np.int64),
        np.arange(n),
        {"v": numeric(values)},
        strings(["k"] * len(asked)),
        asked,
    )
    assert found["p50"].to_pylist()[0] is None
    for i, t in enumerate(asked.tolist()[1:], 1):
        left = (t - DAY) // (DAY // 24) * (DAY // 24)
        inside = values[(at >= left) & (at <= t)]
        check({p: found[f"p{p}"].to_pylist()[i] for p in PERCENTS}, inside)


def test_a_second_opinion() -> None:
    """Apache DataSketches' KLL, where it is installed, errs in rank and not in value."""
    datasketches = pytest.importorskip("datasketches")
    values = DATA["lognormal"]
    theirs = datasketches.kll_doubles_sketch(800)
    theirs.update(values)
    state = WindowState(spec_of())
    apply(state, values)
    for percent, got in row_of(state).items():
        low, high = (theirs.get_quantile((percent + d) / 100) for d in (-0.6, 0.6))
        assert low * (1 - ACCURACY) <= got <= high * (1 + ACCURACY)
