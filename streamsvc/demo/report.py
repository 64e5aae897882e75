"""The outcome of a demo: `demo-report.json`, and whether what it promises held."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from streamsvc.demo.scoreboard import Latencies

__all__ = ["REPORT_FILE", "DemoReport", "Percentiles", "broken_promises"]

REPORT_FILE = "demo-report.json"


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds; null where nothing was measured."""

    p50: float | None
    p99: float | None

    @classmethod
    def of(cls, latencies: Latencies) -> Percentiles:
        """Rounded to a hundredth of a millisecond."""
        return cls(
            *(None if math.isnan(v) else round(v, 2) for v in (latencies.p50, latencies.p99))
        )


class DemoReport(msgspec.Struct, frozen=True):
    """What was measured. Nothing here is assumed: every number comes from the run."""

    days: int
    auc_streaming: float
    """Of the scores that came out of Kafka, on the flights that arrived."""
    auc_offline: float
    """Of the same model on features from history, on the same flights."""
    requests: int
    predictions: int
    """Requests that have a prediction."""
    missing: int
    duplicates: int
    """Predictions beyond the first for a request."""
    dead_letters: int
    fallbacks: int
    """Predictions that the model server did not make."""
    triton_inferences: int
    """By how much Triton's own count of inferences rose during the replay."""
    vectors_identical_share: float
    """Of the served vectors: how many equal history bit for bit."""
    vectors_from_future: int
    """Served vectors that hold an event later than their request."""
    events_per_second: float
    """Events and requests together, in lockstep."""
    latency_ms: Percentiles
    """From sending a request to reading its prediction."""
    freshness_ms: Percentiles
    """From an event's Kafka timestamp to its features being readable."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found

    def write(self, path: Path) -> None:
        """Write the report as JSON."""
        path.write_bytes(msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")


def broken_promises(report: DemoReport) -> list[str]:
    """One sentence for each thing that must hold and did not."""
    found = []
    if report.missing:
        found.append(f"{report.missing} of {report.requests} requests have no prediction")
    if report.vectors_from_future:
        found.append(
            f"{report.vectors_from_future} served vectors hold an event later than their request"
        )
    if report.vectors_identical_share != 1.0:
        found.append(
            f"only {report.vectors_identical_share:.4%} of the served vectors equal history"
        )
    return found
