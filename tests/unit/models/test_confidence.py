from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.models.confidence import MeanSequence, boundary, share_evidence, worst_run

values = st.lists(st.floats(0, 1), min_size=1, max_size=60)


def plainly(xs: list[float]) -> tuple[float, float]:
    """Sum and variance process, a value at a time."""
    total, variance = 0.0, 0.0
    for i, x in enumerate(xs):
        variance += (x - (0.5 + total) / (1 + i)) ** 2
        total += x
    return total, variance


@given(values, st.integers(0, 60))
def test_batches_add_up(xs: list[float], cut: int) -> None:
    sequence = MeanSequence()
    sequence.add(np.array(xs[:cut]))
    sequence.add(np.array(xs[cut:]))
    total, variance = plainly(xs)
    most = float(boundary(np.array(variance), 0.05)) / len(xs)
    low, high = sequence.interval(0.05)
    mean = total / len(xs)
    assert sequence.mean == pytest.approx(mean)
    assert low == pytest.approx(max(0, mean - most))
    assert high == pytest.approx(min(1, mean + most))


@given(st.floats(0, 1e7), st.floats(1e-6, 0.5))
def test_the_boundary_is_where_the_mixture_reaches_its_level(v: float, alpha: float) -> None:
    rates = np.array([0.5 * 0.7**j for j in range(18)])
    s = float(boundary(np.array(v), alpha))
    exponents = rates * s - (-np.log(1 - rates) - rates) * v
    log_mixture = np.logaddexp.reduce(exponents) - np.log(18)
    assert log_mixture == pytest.approx(np.log(1 / alpha), abs=1e-3)


@pytest.mark.parametrize("p", [0.5, 0.03])
def test_it_is_seldom_wrong_at_any_of_a_thousand_looks(p: float) -> None:
    """1,000 looks at 20,000 values, 500 times: ever wrong on one side in at most 5 % of them."""
    rng = np.random.default_rng(5)
    runs, n = 500, 20_000
    wrong = naive = 0
    for _ in range(runs):
        x = (rng.random(n) < p).astype(float)
        sums = np.cumsum(x)
        before = np.concatenate([[0.0], sums[:-1]])
        variance = np.cumsum((x - (0.5 + before) / (1 + np.arange(n))) ** 2)
        looks = np.arange(19, n, 20)
        deviation = sums[looks] - p * (looks + 1)
        wrong += bool((deviation > boundary(variance[looks], 0.05)).any())
        # What a test for one look does when it is looked at as often.
        naive += bool((deviation > 1.645 * np.sqrt(p * (1 - p) * (looks + 1))).any())
    assert wrong / runs <= 0.05
    assert naive / runs > 0.25


def test_evidence_against_a_share_is_seldom_great_while_it_holds() -> None:
    rng = np.random.default_rng(6)
    bad = np.cumsum(rng.random((2_000, 1_000)) < 0.1, axis=1)
    n = np.arange(1, 1_001)
    shares = 0.1 + 0.9 * np.array([0.25, 0.5, 0.75, 0.99])
    logs = [bad * np.log(q / 0.1) + (n - bad) * np.log((1 - q) / 0.9) for q in shares]
    evidence = np.exp(logs).mean(axis=0)
    assert share_evidence(int(bad[0, 99]), 100, 0.1) == pytest.approx(evidence[0, 99])
    assert (evidence.max(axis=1) >= 20).mean() <= 0.05


def test_nothing_seen_says_nothing() -> None:
    assert MeanSequence().interval(0.05) == (0.0, 1.0)
    assert share_evidence(0, 0, 0.1) == 1.0


@given(st.lists(st.booleans(), max_size=40), st.sampled_from([0.05, 0.1, 0.3]))
def test_the_worst_run_is_that_of_all_runs(trials: list[bool], allowed: float) -> None:
    """Against every run there is, tried one by one; the greatest ratio of any one alternative."""
    bad = np.array(trials, bool)
    shares = [allowed + (1 - allowed) * q for q in (0.25, 0.5, 0.75, 0.99)]

    def ratio(start: int, end: int) -> float:
        k, n = sum(trials[start:end]), end - start
        return max(
            k * np.log(q / allowed) + (n - k) * np.log((1 - q) / (1 - allowed)) for q in shares
        )

    runs = [(i, j) for i in range(len(trials)) for j in range(i + 1, len(trials) + 1)]
    best = max((ratio(*run) for run in runs), default=0.0)
    found = worst_run(bad, allowed)
    if best <= 0:
        assert found == (0, 0)
    else:
        assert ratio(*found) == pytest.approx(best)
