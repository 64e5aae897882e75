"""Many observations of a histogram at once: Prometheus' own call takes one value at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamsvc.columns import F64

__all__ = ["observe_many"]


def observe_many(histogram: Any, values: F64) -> None:
    """Observe every value, shape (n,), in a histogram (or in one of its labelled children)."""
    if not len(values):
        return
    # The client offers no bulk call; these are what its `observe` increments.
    counts = np.bincount(np.searchsorted(histogram._upper_bounds, values, "left"))
    histogram._sum.inc(float(values.sum()))
    for bucket, count in enumerate(counts.tolist()):
        if count:
            histogram._buckets[bucket].inc(count)
