"""How good a score is. NumPy only: the demo and the workers use these without scikit-learn."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import F64

__all__ = ["auc", "log_loss", "weighted_quantile"]


def auc(labels: NDArray[np.generic], scores: NDArray[np.floating]) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, ties one half.

    Both arrays have shape (n,); a label is true or 1 for positive. NaN where a class is missing.

    >>> auc(np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8]))
    0.75
    """
    positive = labels.astype(bool)
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if n_positive == 0 or n_negative == 0:
        return float("nan")
    _, group, size = np.unique(scores, return_inverse=True, return_counts=True)
    # Mean rank of a group of equal scores, counted from 1 (Mann-Whitney U).
    rank = np.cumsum(size) - (size - 1) / 2
    u = rank[group][positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def log_loss(labels: NDArray[np.generic], scores: NDArray[np.floating]) -> float:
    """Mean negative log-likelihood of the labels, probabilities clipped at 1e-7 from 0 and 1."""
    p = np.clip(scores.astype(np.float64), 1e-7, 1 - 1e-7)
    positive = labels.astype(bool)
    return float(-np.mean(np.where(positive, np.log(p), np.log1p(-p))))


def weighted_quantile(values: F64, weights: NDArray[np.integer], share: float) -> float:
    """The least of the values that at least `share` of the weight does not exceed; NaN of none.

    >>> weighted_quantile(np.array([5.0, 1.0]), np.array([1, 99]), 0.99)
    1.0
    """
    if not weights.sum():
        return float("nan")
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, share * total[-1])])
