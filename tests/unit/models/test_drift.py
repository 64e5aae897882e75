from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.models.drift import psi, psi_noise
from streamsvc.models.histogram import Histogram, histogram


@given(
    st.lists(st.integers(0, 500), min_size=3, max_size=3),
    st.lists(st.integers(0, 500), min_size=3, max_size=3),
)
def test_it_is_the_formula(one: list[int], other: list[int]) -> None:
    e = [(c + 0.5) / (sum(one) + 2) for c in [*one, 0]]
    o = [(c + 0.5) / (sum(other) + 2) for c in [*other, 0]]
    expected = sum((b - a) * np.log(b / a) for a, b in zip(e, o, strict=True))
    found = psi(Histogram([0.1, 0.2], one), Histogram([0.1, 0.2], other))
    assert found == pytest.approx(expected, abs=1e-12)
    assert found >= 0


def test_noise_is_what_an_index_seldom_exceeds_while_nothing_moves() -> None:
    rng = np.random.default_rng(1)
    bins = histogram(rng.random(5_000))
    pairs = [(bins.count(rng.random(900)), bins.count(rng.random(150))) for _ in range(300)]
    over = [psi(a, b) > psi_noise(a, b) for a, b in pairs]
    assert np.mean(over) <= 0.02
    moved = bins.count(rng.random(150) ** 2)
    assert psi(pairs[0][0], moved) > psi_noise(pairs[0][0], moved)


def test_other_bins_are_refused_and_no_rows_are_all_noise() -> None:
    with pytest.raises(ValueError, match="different bins"):
        psi(Histogram([0.1], [1, 1]), Histogram([0.2], [1, 1]))
    assert psi_noise(Histogram([0.1], [1, 1]), Histogram([0.1], [0, 0])) == float("inf")
