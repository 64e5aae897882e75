"""Score histograms: Prometheus' buckets hold what the bins of training do."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from streamsvc.models.histogram import Histogram
from streamsvc.monitor.scores import ScoreHistograms

LABELS = ("risk", "3", "champion")
SCORES = st.lists(st.floats(0, 1, width=32), max_size=30)


@given(st.lists(st.floats(0.0625, 1, width=32), unique=True, max_size=6), SCORES, SCORES)
def test_bins_are_those_of_training_also_for_scores_on_a_cut_point(edges, first, second):
    registry, edges = CollectorRegistry(), sorted(edges)
    scores = ScoreHistograms(registry, "scores", "text", ("service", "model_version", "variant"))
    first = [*first, *edges]
    for batch in (first, second):
        scores.observe(LABELS, edges, np.array(batch, np.float32))
    every = np.array(first + second, np.float32)
    want = Histogram(edges, [0] * (len(edges) + 1)).count(every)
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    found = {s.labels["le"]: s.value for s in family.samples if s.name == "scores_bucket"}
    below = [float(np.nextafter(np.float32(e), np.float32(-1))) for e in edges]
    assert [float(le) for le in found] == [*below, float("inf")]
    assert list(found.values()) == np.cumsum(want.counts).tolist()
    (total,) = [s for s in family.samples if s.name == "scores_sum"]
    np.testing.assert_allclose(total.value, every.astype(float).sum(), rtol=1e-6)
    assert total.labels == dict(zip(("service", "model_version", "variant"), LABELS, strict=True))
