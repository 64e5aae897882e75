from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.models.confidence import MeanSequence
from streamsvc.models.metrics import auc, log_loss
from streamsvc.models.quality import BINARY, Quality

MODELS = {"equal": (1.0, 0.3), "worse": (0.5, 0.8), "better": (1.6, 0.0)}
"""How steep a score is in what decides, and how noisy: what the champion is compared with."""


def traffic(rng: np.random.Generator, n: int, base: float = -1.0):
    """Labels, and a function that scores the same requests."""
    z = rng.normal(size=n)
    labels = (rng.random(n) < 1 / (1 + np.exp(-(1.6 * z + base)))).astype(float)

    def scores(steep: float, noise: float):
        return 1 / (1 + np.exp(-(steep * z + noise * rng.normal(size=n) + base)))

    return labels, scores


def by_name(found):
    return {c.metric: c for c in found}


def test_they_are_the_metrics_that_people_know() -> None:
    labels, scores = traffic(np.random.default_rng(0), 4_000)
    champion, candidate = scores(*MODELS["equal"]), scores(*MODELS["better"])
    quality = Quality(BINARY)
    for part in np.array_split(np.arange(4_000), 37):
        quality.add_paired(labels[part], champion[part], candidate[part])
    found = by_name(quality.comparisons(0.05))
    assert found["brier"].champion == pytest.approx(np.mean((labels - champion) ** 2))
    clipped = np.clip(candidate, 0.01, 0.99)
    assert found["log_loss"].candidate == pytest.approx(log_loss(labels, clipped))
    assert found["calibration"].champion == pytest.approx(abs(champion.mean() - labels.mean()))
    # Blocks of disjoint pairs estimate the AUC of all pairs.
    assert found["auc"].champion == pytest.approx(auc(labels, champion), abs=0.02)
    assert found["auc"].candidate == pytest.approx(auc(labels, candidate), abs=0.02)
    for comparison in found.values():
        assert comparison.labels == (4_000, 4_000)
        sign = 1 if comparison.metric == "auc" else -1
        gain = sign * (comparison.candidate - comparison.champion)
        assert comparison.lower <= gain <= comparison.upper


@given(
    st.lists(st.tuples(st.booleans(), st.sampled_from([0.1, 0.5, 0.9])), max_size=40),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_blocks_of_an_auc_use_every_label_once(rows, cuts) -> None:
    """The queue against the same by hand, label by label."""
    quality = Quality(["auc"])
    labels = np.array([float(y) for y, _ in rows])
    scores = np.array([s for _, s in rows])
    waiting: tuple[list[float], list[float]] = ([], [])
    blocks = []
    for part in np.split(np.arange(len(rows)), sorted(c for c in cuts if c <= len(rows))):
        quality.add_apart(labels[part], scores[part], candidate=True)
        quality.add_apart(labels[part], scores[part], candidate=False)
        for i in part:
            waiting[int(labels[i])].append(scores[i])
        negatives, positives = waiting
        few = min(len(negatives), len(positives))
        a, b = (len(side) // few if few else 0 for side in waiting)
        a, b = (a, 1) if len(negatives) >= len(positives) else (1, b)
        for _ in range(few):
            met = [(n, p) for n in negatives[:a] for p in positives[:b]]
            blocks.append(np.mean([(p > n) + 0.5 * (p == n) for n, p in met]))
            del negatives[:a], positives[:b]
    found = quality.comparisons(0.05)
    assert bool(found) == bool(blocks)
    if blocks:
        assert found[0].candidate == pytest.approx(np.mean(blocks))


def test_regression_errors_are_in_their_unit() -> None:
    rng = np.random.default_rng(2)
    labels = rng.normal(10, 3, 3_000)
    champion, candidate = labels + rng.normal(0, 1, 3_000), labels + rng.normal(0, 2, 3_000)
    quality = Quality(["absolute_error", "squared_error"], error_limit=20)
    quality.add_apart(labels, champion, candidate=False)
    quality.add_apart(labels, candidate, candidate=True)
    found = by_name(quality.comparisons(0.05))
    assert found["absolute_error"].champion == pytest.approx(np.abs(labels - champion).mean())
    assert found["squared_error"].candidate == pytest.approx(((labels - candidate) ** 2).mean())
    assert found["absolute_error"].upper < 0
    assert not found["absolute_error"].paired


def test_the_bounds_of_a_calibration_share_its_risk_among_all_that_they_are_made_of() -> None:
    labels, scores = traffic(np.random.default_rng(4), 3_000)
    champion, candidate = scores(1.0, 0.3), np.clip(scores(1.0, 0.3) + 0.3, 0, 1)
    quality = Quality(["calibration"])
    quality.add_apart(labels, champion, candidate=False)
    quality.add_apart(labels, candidate, candidate=True)
    (found,) = quality.comparisons(0.05)
    sizes = []
    for given_scores in (champion, candidate):
        bias = MeanSequence()
        bias.add((1 + given_scores - labels) / 2)
        # Two comparisons are possible, of two models each, and either bound takes two.
        low, high = (2 * bound - 1 for bound in bias.interval(0.05 / 8))
        most = max(abs(low), abs(high))
        sizes.append((0.0 if low <= 0 <= high else min(abs(low), abs(high)), most))
    assert found.upper == pytest.approx(sizes[0][1] - sizes[1][0])
    assert found.lower == pytest.approx(sizes[0][0] - sizes[1][1])
    assert found.upper < 0


def stopped_after(seed: int, model: str, looks: int, per_look: int, share: float | None):
    """Labels of the candidate with which it was called worse, or None. `share` is the candidate's
    of the traffic; None for a shadow."""
    rng = np.random.default_rng(seed)
    labels, scores = traffic(rng, looks * per_look)
    champion, candidate = scores(*MODELS["equal"]), scores(*MODELS[model])
    mine = rng.random(len(labels)) < (share or 1)
    quality = Quality(["auc", "brier"])
    for start in range(0, len(labels), per_look):
        at = slice(start, start + per_look)
        if share is None:
            quality.add_paired(labels[at], champion[at], candidate[at])
        else:
            y, ours = labels[at], mine[at]
            quality.add_apart(y[~ours], champion[at][~ours], candidate=False)
            quality.add_apart(y[ours], candidate[at][ours], candidate=True)
        if any(c.upper < 0 for c in quality.comparisons(0.05)):
            return int(mine[: start + per_look].sum())
    return None


@pytest.mark.parametrize("share", [None, 0.3], ids=["shadow", "canary"])
def test_an_equal_model_is_not_called_worse_in_a_thousand_looks(share: float | None) -> None:
    """The whole gate, by two metrics. How seldom it is wrong is told by the sequences that it is
    made of, in test_confidence; `benchmarks/rollout.py gate` has the same for many models."""
    assert [stopped_after(seed, "equal", 1_000, 10, share) for seed in range(5)] == [None] * 5


@pytest.mark.parametrize(("share", "most"), [(None, 2_500), (0.3, 5_000)], ids=["shadow", "canary"])
def test_a_clearly_worse_model_is_found(share: float | None, most: int) -> None:
    """An AUC of 0.70 instead of 0.79: within 2,500 labels of a shadow, 5,000 of a canary."""
    found = [stopped_after(seed, "worse", 250, 100, share) for seed in range(10)]
    assert all(each is not None and each <= most for each in found), found
    assert stopped_after(0, "better", 100, 100, share) is None


def test_a_label_of_one_class_has_no_auc_yet() -> None:
    quality = Quality(["auc", "brier"])
    quality.add_paired(np.ones(5), np.full(5, 0.5), np.full(5, 0.6))
    assert [c.metric for c in quality.comparisons(0.05)] == ["brier"]
    assert not any(math.isnan(c.lower) for c in quality.comparisons(0.05))
