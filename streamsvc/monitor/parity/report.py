"""What came of a comparison: by feature, and of all vectors how many were stale or ahead."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry, write_to_textfile

from streamsvc.monitor.metrics import ParityMetrics
from streamsvc.monitor.parity.compare import OUTCOMES, FeatureParity

__all__ = ["ParityReport", "write_metrics"]


class ParityReport(msgspec.Struct, frozen=True):
    """Parity of one service."""

    service: str
    vectors: int
    features: tuple[FeatureParity, ...]
    stale: int
    """Vectors that lacked something at their request's time."""
    ahead: int
    """Vectors that held something later than their request."""
    unchecked: dict[str, dict[str, int]]
    """View -> why its rows could not be recomputed -> how many vectors."""
    origins: dict[str, str]
    """Source -> where its events were read: `archive` or `topic`."""

    def total(self, outcome: str) -> int:
        """Values of that outcome, over all features."""
        return sum(getattr(feature, outcome) for feature in self.features)

    @property
    def holds(self) -> bool:
        """Whether something was compared, and nothing differs."""
        return self.total("match") > 0 and self.total("differing") == 0

    def shares(self) -> dict[str, float]:
        """Of all vectors, how many were stale, and how many ahead."""
        n = max(self.vectors, 1)
        return {"stale": self.stale / n, "ahead": self.ahead / n}


def write_metrics(report: ParityReport, path: str) -> None:
    """As a file for the textfile collector of Prometheus' node exporter."""
    registry = CollectorRegistry()
    metrics = ParityMetrics(registry)
    for feature in report.features:
        for outcome in OUTCOMES:
            labels = (report.service, feature.feature, outcome)
            metrics.values.labels(*labels).set(getattr(feature, outcome))
    metrics.vectors.labels(report.service).set(report.vectors)
    metrics.stale.labels(report.service).set(report.stale)
    metrics.ahead.labels(report.service).set(report.ahead)
    metrics.finished.labels(report.service).set_to_current_time()
    write_to_textfile(path, registry)
