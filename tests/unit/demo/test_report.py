"""What the report holds, and what makes a demo fail."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from streamsvc.demo.report import DemoReport, Percentiles, broken_promises
from streamsvc.demo.scoreboard import Latencies

GOOD = DemoReport(
    days=1,
    auc_streaming=0.75,
    auc_offline=0.75,
    requests=1_000,
    predictions=1_000,
    missing=0,
    duplicates=2,
    dead_letters=0,
    fallbacks=0,
    triton_inferences=1_000,
    vectors_identical_share=1.0,
    vectors_from_future=0,
    events_per_second=100.0,
    latency_ms=Percentiles(20.0, 40.0),
    freshness_ms=Percentiles(10.0, 30.0),
)


def test_the_file_holds_exactly_the_documented_names(tmp_path: Path) -> None:
    path = tmp_path / "demo-report.json"
    GOOD.write(path)
    found = json.loads(path.read_text())
    assert found == GOOD.as_dict()
    assert list(found) == [
        "days",
        "auc_streaming",
        "auc_offline",
        "requests",
        "predictions",
        "missing",
        "duplicates",
        "dead_letters",
        "fallbacks",
        "triton_inferences",
        "vectors_identical_share",
        "vectors_from_future",
        "events_per_second",
        "latency_ms",
        "freshness_ms",
    ]
    assert found["latency_ms"] == {"p50": 20.0, "p99": 40.0}


def test_nothing_measured_is_null_and_not_nan() -> None:
    assert Percentiles.of(Latencies.of([])) == Percentiles(None, None)
    assert Percentiles.of(Latencies(1.23456, 2.0)) == Percentiles(1.23, 2.0)


def test_a_good_run_breaks_no_promise() -> None:
    assert broken_promises(GOOD) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"missing": 3}, "3 of 1000 requests have no prediction"),
        ({"vectors_from_future": 1}, "later than their request"),
        ({"vectors_identical_share": 0.9999}, "99.9900%"),
        ({"vectors_identical_share": float("nan")}, "equal history"),
    ],
)
def test_a_broken_promise_is_named(change: dict[str, float], said: str) -> None:
    (sentence,) = broken_promises(msgspec.structs.replace(GOOD, **change))
    assert said in sentence
