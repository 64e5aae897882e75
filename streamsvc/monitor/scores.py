"""A histogram of scores whose bins are those of training, so that both can be compared as they are.

Prometheus' own histograms have one set of buckets for all label values, and every model version has
bins of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from threading import Lock

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

__all__ = ["ScoreHistograms"]


class _Counts:
    def __init__(self, edges: NDArray[np.float32]) -> None:
        self.edges = edges
        self.counts = np.zeros(len(edges) + 1, np.int64)
        self.sum = 0.0


class ScoreHistograms(Collector):
    """Thread-safe."""

    _type = "histogram"

    def __init__(
        self, registry: CollectorRegistry, name: str, text: str, labels: Sequence[str]
    ) -> None:
        # Named as in Prometheus' own, so that all of them can be listed alike.
        self._name, self._documentation = name, text
        self._labelnames = tuple(labels)
        self._found: dict[tuple[str, ...], _Counts] = {}
        self._lock = Lock()
        registry.register(self)

    def observe(
        self, labels: tuple[str, ...], edges: Iterable[float], scores: NDArray[np.float32]
    ) -> None:
        """Count scores, (n,), in bins with these cut points, which are those of the first call."""
        with self._lock:
            found = self._found.get(labels)
            if found is None:
                found = self._found[labels] = _Counts(np.fromiter(edges, np.float32))
            bins = np.searchsorted(found.edges, scores, side="right")
            found.counts += np.bincount(bins, minlength=len(found.counts))
            found.sum += float(scores.sum(dtype=np.float64))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The name, before anything was counted."""
        yield HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """All counts. A bucket's `le` is the float32 just below its cut point: a score that equals
        a cut point belongs to the bin above, and to Prometheus' bucket below."""
        family = HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)
        with self._lock:
            for labels, found in self._found.items():
                below = np.nextafter(found.edges, np.float32(-np.inf))
                bounds = [*(repr(float(edge)) for edge in below), "+Inf"]
                sums = found.counts.cumsum().tolist()
                buckets = list(zip(bounds, sums, strict=True))
                family.add_metric(list(labels), buckets, found.sum)
        yield family
