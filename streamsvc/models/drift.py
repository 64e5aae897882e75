"""How far a distribution has moved, on bins that were fixed at training time."""

from __future__ import annotations

import numpy as np

from streamsvc.models.histogram import Histogram

__all__ = ["psi", "psi_noise"]

_HALF_A_ROW = 0.5
_DEVIATIONS = 3.0


def psi(expected: Histogram, observed: Histogram) -> float:
    """Population stability index, Σ (o - e) ln(o / e) over the shares of the bins.

    By custom 0.1 is a little and 0.25 is much. Missing values are a bin of their own; every bin
    counts half a row more than it has, so that an empty one does not make it infinite. Raises
    ValueError if the bins are not the same.

    >>> calm = Histogram([0.5], [500, 500])
    >>> round(psi(calm, Histogram([0.5], [800, 200])), 2)
    0.41
    """
    if expected.edges != observed.edges:
        raise ValueError("two histograms with different bins cannot be compared")
    e, o = _shares(expected), _shares(observed)
    return float(((o - e) * np.log(o / e)).sum())


def psi_noise(expected: Histogram, observed: Histogram) -> float:
    """What the index is at most, as a rule, where nothing has moved but the rows are so few.

    It is then about (1/n + 1/m) times a chi-squared number with one degree of freedom less than
    there are bins (Yurdakul, "Statistical properties of population stability index", 2018): its
    mean and three standard deviations.
    """
    n, m = _rows(expected), _rows(observed)
    if not n or not m:
        return float("inf")
    freedom = len(expected.counts) - 1 + (expected.missing + observed.missing > 0)
    return (1 / n + 1 / m) * (freedom + _DEVIATIONS * float(np.sqrt(2 * freedom)))


def _rows(histogram: Histogram) -> int:
    return sum(histogram.counts) + histogram.missing


def _shares(histogram: Histogram) -> np.ndarray:
    counts = np.array([*histogram.counts, histogram.missing]) + _HALF_A_ROW
    return counts / counts.sum()
