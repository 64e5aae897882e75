from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.models.histogram import Histogram, histogram

numbers = st.one_of(
    st.floats(-1e6, 1e6, width=32), st.sampled_from([0.0, 1.0, math.nan]), st.integers(-3, 3)
)


def counted_by_hand(edges: list[float], values: list[float]) -> tuple[list[int], int]:
    counts = [0] * (len(edges) + 1)
    missing = 0
    for v in values:
        if math.isnan(v):
            missing += 1
        else:
            counts[sum(1 for e in edges if e <= v)] += 1
    return counts, missing


@given(st.lists(numbers, max_size=200), st.integers(2, 20))
def test_every_value_is_in_the_one_bin_that_holds_it(values: list[float], bins: int) -> None:
    found = histogram(np.array(values, np.float32), bins)
    assert found.edges == sorted(set(found.edges))
    assert len(found.counts) == len(found.edges) + 1 <= bins
    by_hand = counted_by_hand(found.edges, [float(np.float32(v)) for v in values])
    assert (found.counts, found.missing) == by_hand


@given(st.lists(numbers, min_size=1, max_size=100), st.lists(numbers, max_size=100))
def test_other_values_are_counted_in_the_same_bins(first: list[float], other: list[float]) -> None:
    frozen = histogram(np.array(first, np.float32))
    again = frozen.count(np.array(other, np.float32))
    assert again.edges == frozen.edges
    by_hand = counted_by_hand(frozen.edges, [float(np.float32(v)) for v in other])
    assert (again.counts, again.missing) == by_hand


def test_bins_of_a_continuous_feature_weigh_alike() -> None:
    found = histogram(np.random.default_rng(0).normal(size=10_000).astype(np.float32))
    assert len(found.counts) == 20
    assert min(found.counts) > 450
    assert max(found.counts) < 550


def test_nothing_to_count() -> None:
    assert histogram(np.empty(0, np.float32)) == Histogram([], [0], 0)
    assert histogram(np.full(3, np.nan, np.float32)) == Histogram([], [0], 3)
    assert histogram(np.zeros(5, np.float32)) == Histogram([], [5], 0)
