from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram

from streamsvc.monitor.bulk import observe_many


@given(st.lists(st.floats(0, 20) | st.sampled_from([0.5, 1.0, 2.0]), max_size=30))
def test_many_observations_are_the_sum_of_single_ones(values):
    registries = CollectorRegistry(), CollectorRegistry()
    one, many = (
        Histogram("h", "…", ["of"], registry=r, buckets=(0.5, 1.0, 2.0)) for r in registries
    )
    for value in values:
        one.labels("x").observe(value)
    observe_many(many.labels("x"), np.array(values, np.float64))
    for bound in ("0.5", "1.0", "2.0", "+Inf"):
        counts = [r.get_sample_value("h_bucket", {"of": "x", "le": bound}) for r in registries]
        assert (counts[0] or 0) == (counts[1] or 0)
    sums = [r.get_sample_value("h_sum", {"of": "x"}) or 0.0 for r in registries]
    assert np.isclose(*sums)
