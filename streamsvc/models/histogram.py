"""Fixed-bin histograms, frozen at training time.

Bins that never move can be counted by many workers and added up; a drift score of two such
histograms is then the score of the whole stream, which re-binned samples cannot give.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

__all__ = ["Histogram", "histogram"]

BINS = 20


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of a number in bins that cover the whole line.

    `edges` are strictly increasing cut points e₁ … e_k; `counts` has k + 1 entries: x < e₁,
    e₁ ≤ x < e₂, …, e_k ≤ x. `missing` counts NaN.
    """

    edges: list[float]
    counts: list[int]
    missing: int = 0

    def count(self, values: NDArray[np.floating]) -> Histogram:
        """The same bins, counting these values instead.

        >>> Histogram([1.0, 2.0], [0, 0, 0]).count(np.array([0.5, 1.0, np.nan, 7.0]))
        Histogram(edges=[1.0, 2.0], counts=[1, 1, 1], missing=1)
        """
        present = values[~np.isnan(values)]
        bins = np.searchsorted(np.array(self.edges, values.dtype), present, side="right")
        counts = np.bincount(bins, minlength=len(self.edges) + 1)
        return Histogram(self.edges, counts.tolist(), len(values) - len(present))


def histogram(values: NDArray[np.floating], bins: int = BINS) -> Histogram:
    """A histogram whose cut points are quantiles of the values, so that bins weigh alike.

    A value that fills several quantiles (zero, mostly) gives one cut point, not several; fewer
    distinct values give fewer bins, and no values at all a single one.

    >>> histogram(np.array([0.0, 0.0, 0.0, 1.0]), bins=4).counts
    [3, 1]
    """
    present = values[~np.isnan(values)]
    if len(present) == 0:
        return Histogram([], [0], len(values))
    cuts = np.quantile(present, np.arange(1, bins) / bins, method="higher")
    # A cut at the minimum would leave the first bin empty for good.
    edges = np.unique(cuts[cuts > present.min()])
    return Histogram(edges.tolist(), [0] * (len(edges) + 1)).count(values)
