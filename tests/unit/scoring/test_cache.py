"""The cache never gives one vector's score to another, and knows what it has room for."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.scoring.cache import ScoreCache

VALUES = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, np.inf, np.nan])
BATCHES = st.lists(
    st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=20), min_size=1, max_size=8
)


def tiny(places):
    """A cache of so many places for vectors of three: most of them collide."""
    cache = ScoreCache(3, 1, scores=2)
    cache._mask = np.uint64(places - 1)
    return cache


@given(BATCHES, st.sampled_from([1, 2, 16]))
def test_a_score_is_the_vectors_own(batches, places):
    cache, scores = tiny(places), {}
    for rows in batches:
        inputs = np.array(rows, np.float32)
        for row in inputs:
            scores.setdefault(row.tobytes(), np.float32(len(scores)))
        mine = np.array([[scores[row.tobytes()]] * 2 for row in inputs], np.float32)
        known, found = cache.find(inputs)
        np.testing.assert_array_equal(found[known], mine[known])
        cache.put(inputs[~known], mine[~known])
        last, found = cache.find(inputs[-1:])
        assert known[-1] or (last.all() and (found[0] == mine[-1]).all())


def test_what_fits_is_known():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(5_000, 40)).astype(np.float32)
    inputs[rng.random(inputs.shape) < 0.1] = np.nan
    cache = ScoreCache(40, 20)
    assert not cache.find(inputs)[0].any()
    cache.put(inputs, inputs[:, :1])
    known, found = cache.find(inputs)
    assert known.mean() > 0.95  # 131,072 would fit; two with one place are rare
    np.testing.assert_array_equal(found[known], inputs[known, :1])
    other = inputs.copy()
    other[:, 39] = 7.0
    assert not cache.find(other)[0].any()


def test_a_small_budget_holds_one_vector():
    cache = ScoreCache(300_000, 1)
    inputs = np.ones((1, 300_000), np.float32)
    cache.put(inputs, np.array([[0.5]], np.float32))
    assert cache.find(inputs)[0].all()
