"""Statements about a mean or a share that hold at every look at once, however often one looks.

A test at 95 % that is repeated every second is wrong sooner or later. A *confidence sequence* is a
sequence of intervals that all hold together with the stated probability, so a rollout may be
stopped the moment that one of them says so (Howard, Ramdas, McAuliffe and Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 49(2), 2021). Nothing is
assumed of the values but their range: not their distribution, nor that they are independent or
alike; what is covered is the average of their conditional means.

NumPy only, and a state of three numbers for a sequence of any length.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import F64, Bools

__all__ = ["MeanSequence", "boundary", "share_evidence", "worst_run"]

_RATES = 0.5 * 0.7 ** np.arange(18)
"""λ of the mixture. Each is best at one size of the variance process, about 2 log(1/α) / λ²; all of
them together are near the best from a few dozen values to a thousand million."""
_COSTS = -np.log1p(-_RATES) - _RATES
"""ψ_E(λ) of a sub-exponential process with scale 1."""
_STEPS = 8
_SHARES = np.array([0.25, 0.5, 0.75, 0.99])


def boundary(variance: F64, alpha: float) -> F64:
    """What the sum of deviations exceeds at some time with probability `alpha` at most.

    `variance` is Σ (xᵢ - x̂ᵢ)² of values in [0, 1] with predictions x̂ᵢ made before each (Theorem 4
    of the paper, one side). The boundary is the s at which the mixture of exp(λ s - ψ_E(λ) v) over
    the rates reaches 1/α: a mixture of supermartingales is one (section 3.2 there).
    """
    v = np.asarray(variance, np.float64)[..., None]
    log_level = np.log(len(_RATES) / alpha)
    # Any one of them reaches the level of all together at this s. From there Newton's method goes
    # down to the crossing and never beyond it, because the logarithm of the mixture is convex.
    s = ((log_level + v * _COSTS) / _RATES).min(axis=-1)
    for _ in range(_STEPS):
        exponents = s[..., None] * _RATES - v * _COSTS
        top = exponents.max(axis=-1)
        terms = np.exp(exponents - top[..., None])
        total = terms.sum(axis=-1)
        s = s - (top + np.log(total) - log_level) * total / (terms * _RATES).sum(axis=-1)
    return np.asarray(s)


class MeanSequence:
    """The mean of values in [0, 1], as they come.

    >>> heads = MeanSequence()
    >>> heads.add(np.array([1.0, 0.0] * 500))
    >>> low, high = heads.interval(alpha=0.05)
    >>> low < 0.5 < high and high - low < 0.16
    True
    """

    def __init__(self) -> None:
        self.n = 0
        self._sum = 0.0
        self._variance = 0.0

    @property
    def mean(self) -> float:
        """Of all values so far; one half of none."""
        return self._sum / self.n if self.n else 0.5

    def add(self, values: NDArray[np.floating]) -> None:
        """Further values, in the order in which they became known."""
        x = np.asarray(values, np.float64)
        if not len(x):
            return
        before = self.n + np.arange(len(x))
        sums = self._sum + np.concatenate([[0.0], np.cumsum(x)])
        # Each value is predicted by those before it, and by one half as if it had been seen once.
        predicted = (0.5 + sums[:-1]) / (1 + before)
        self._variance += float(np.square(x - predicted).sum())
        self._sum, self.n = float(sums[-1]), self.n + len(x)

    def interval(self, alpha: float) -> tuple[float, float]:
        """Bounds of the mean; each is wrong at any time with probability `alpha` at most."""
        if not self.n:
            return 0.0, 1.0
        most = float(boundary(np.array(self._variance), alpha)) / self.n
        return max(0.0, self.mean - most), min(1.0, self.mean + most)


def share_evidence(bad: int, n: int, allowed: float) -> float:
    """How strongly `bad` of `n` trials speak against a share of at most `allowed`.

    A likelihood ratio against some greater shares, mixed: with probability α at most it is ever as
    great as 1/α while the share is what is allowed or less (Ville's inequality).

    >>> [round(share_evidence(n, n, 0.1)) for n in (1, 3, 5)]
    [7, 410, 32233]
    >>> share_evidence(8, 100, 0.1) < 1
    True
    """
    shares = allowed + (1 - allowed) * _SHARES
    logs = bad * np.log(shares / allowed) + (n - bad) * np.log((1 - shares) / (1 - allowed))
    return float(np.exp(np.minimum(logs, 700.0)).mean())


def worst_run(bad: Bools, allowed: float) -> tuple[int, int]:
    """First and past-the-last of the consecutive trials that speak most against a share of at most
    `allowed`; (0, 0) if none do.

    Page's CUSUM of the likelihood ratios of `share_evidence`, so what was well before does not
    excuse what goes wrong now. While the share is allowed, evidence of 1/α comes up once in 1/α
    trials at most, on average (Lorden, "Procedures for reacting to a change in distribution",
    1971).

    >>> worst_run(np.array([False] * 100 + [True] * 4 + [False]), 0.1)
    (100, 104)
    """
    shares = (allowed + (1 - allowed) * _SHARES)[:, None]
    steps = np.where(bad, np.log(shares / allowed), np.log((1 - shares) / (1 - allowed)))
    sums = np.concatenate([np.zeros((len(_SHARES), 1)), np.cumsum(steps, axis=1)], axis=1)
    least = np.minimum.accumulate(sums, axis=1)
    which, end = np.unravel_index(np.argmax(sums - least), sums.shape)
    start = int(np.argmin(sums[which, : end + 1]))
    return (start, int(end)) if end > start else (0, 0)
