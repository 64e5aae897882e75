"""How fresh features were: the feature worker's own histogram, read as Prometheus reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias
from urllib.error import URLError
from urllib.request import urlopen

import numpy as np

from streamsvc.demo.scoreboard import Latencies
from streamsvc.errors import UnavailableError

__all__ = ["Buckets", "bucket_percentile", "freshness_between", "read_buckets"]

Buckets: TypeAlias = Mapping[float, float]
"""Upper bound of a bucket in seconds -> observations up to it."""

_METRIC = "streamsvc_freshness_seconds"
_TIMEOUT_S = 5.0


def read_buckets(port: int, metric: str = _METRIC) -> dict[float, float]:
    """The histogram of a worker's metrics endpoint on this machine, summed over its labels.

    Raises UnavailableError if nobody answers there.
    """
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=_TIMEOUT_S) as answer:
            text = answer.read().decode()
    except (URLError, TimeoutError, ConnectionError) as error:
        raise UnavailableError(f"No metrics on port {port}: {error}") from error
    found: dict[float, float] = {}
    for family in text_string_to_metric_families(text):
        if family.name == metric:
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    bound = float(sample.labels["le"])
                    found[bound] = found.get(bound, 0.0) + sample.value
    return found


def freshness_between(before: Buckets, after: Buckets) -> Latencies:
    """Percentiles in milliseconds of what was observed in between."""
    counts = {bound: total - before.get(bound, 0.0) for bound, total in after.items()}
    return Latencies(*(1e3 * bucket_percentile(counts, percent) for percent in (50, 99)))


def bucket_percentile(buckets: Buckets, percent: float) -> float:
    """A percentile, on a straight line within its bucket; NaN of nothing.

    What lies beyond the last finite bound is given as that bound, as Prometheus does.

    >>> bucket_percentile({1.0: 10.0, 2.0: 20.0, float("inf"): 20.0}, 75)
    1.5
    """
    bounds = sorted(buckets)
    totals = np.array([buckets[bound] for bound in bounds])
    if not len(totals) or totals[-1] <= 0:
        return float("nan")
    rank = totals[-1] * percent / 100
    at = int(np.searchsorted(totals, rank))
    if np.isinf(bounds[at]):
        return bounds[at - 1] if at else float("nan")
    low, below = (bounds[at - 1], totals[at - 1]) if at else (0.0, 0.0)
    return float(low + (bounds[at] - low) * (rank - below) / (totals[at] - below))
