"""Percentiles of a histogram, as Prometheus interpolates them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from streamsvc.demo.freshness import bucket_percentile, freshness_between, read_buckets
from streamsvc.errors import UnavailableError
from streamsvc.monitor.metrics import FeatureMetrics, serve_metrics

INF = float("inf")


def test_a_percentile_lies_on_a_line_within_its_bucket() -> None:
    buckets = {0.1: 10.0, 0.2: 20.0, 0.4: 20.0, INF: 20.0}
    assert bucket_percentile(buckets, 25) == pytest.approx(0.05)
    assert bucket_percentile(buckets, 75) == pytest.approx(0.15)
    assert bucket_percentile(buckets, 100) == pytest.approx(0.2)


def test_beyond_the_last_bound_is_that_bound() -> None:
    assert bucket_percentile({0.1: 1.0, INF: 100.0}, 99) == 0.1
    assert math.isnan(bucket_percentile({INF: 5.0}, 50))
    assert math.isnan(bucket_percentile({0.1: 0.0, INF: 0.0}, 50))
    assert math.isnan(bucket_percentile({}, 50))


def test_it_is_within_a_bucket_of_the_truth() -> None:
    rng = np.random.default_rng(3)
    values = rng.gamma(2.0, 0.01, 5_000)
    bounds = np.arange(0.005, 0.2, 0.005)
    buckets = {float(b): float((values <= b).sum()) for b in bounds} | {INF: 5_000.0}
    for percent in (1, 50, 99):
        assert abs(bucket_percentile(buckets, percent) - np.percentile(values, percent)) <= 0.005


def test_only_what_came_in_between_counts() -> None:
    before = {0.01: 100.0, 0.1: 100.0, INF: 100.0}
    after = {0.01: 100.0, 0.1: 110.0, INF: 110.0}
    found = freshness_between(before, after)
    assert 10.0 < found.p50 < found.p99 <= 100.0


def test_a_workers_endpoint_is_read_over_all_its_views() -> None:
    metrics = FeatureMetrics()
    port = serve_metrics(metrics.registry, 0)
    metrics.freshness.labels("a").observe(0.003)
    metrics.freshness.labels("b").observe(0.003)
    buckets = read_buckets(port)
    assert buckets[INF] == 2.0
    assert buckets[0.002] == 0.0
    assert buckets[0.004] == 2.0


def test_nobody_there_is_said_so() -> None:
    with pytest.raises(UnavailableError, match="port 1:"):
        read_buckets(1)
