from __future__ import annotations

import numpy as np
import pytest
from support.scoring import predictions

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import Route
from streamsvc.events.decode import Decoded
from streamsvc.models.histogram import Histogram
from streamsvc.models.rollout import Candidate, Revision
from streamsvc.models.rollout_policy import Policy
from streamsvc.monitor.rollout.evidence import RolloutEvidence
from streamsvc.scoring.records import prediction_ids
from streamsvc.scoring.served_log import read_served, served_records
from streamsvc.scoring.vectors import Vectors

ROUTE = Route("requests", "m", "out", labels="outcomes", label_field="amount", label_from=10.0)
REVISION = Revision("risk", 2, 3, status="running", candidate=Candidate(4, "shadow", 100))
BINS = Histogram([0.5], [10, 10])
LATER = 10**12


def evidence(route=ROUTE, policy=None):
    fields = {"card": "card", "shop": "shop_id"}
    return RolloutEvidence(route, fields, REVISION, policy or Policy(), BINS)


def batch(n=4, **changes):
    given = {"score": np.linspace(0.1, 0.9, n, dtype=np.float32), **changes}
    p = predictions(n, **given)
    zero = np.zeros(n, np.int64)
    v = Vectors(np.zeros((n, 1), np.float32), zero, zero, zero, {}, {}, {})
    (raw,) = served_records(p, prediction_ids(p), v, ["a:b"])
    return read_served(raw), p


def shadow(n=4, **changes):
    return batch(n, model_version="4", variant="shadow", **changes)[0]


def outcomes(amounts, at=None, shops=None, ids=None):
    n = len(amounts)
    columns = {
        "amount": numeric(amounts),
        "card": strings(["c"] * n),
        "shop_id": numeric(list(range(n)) if shops is None else shops),
    }
    if ids is not None:
        columns["id"] = strings(ids)
    times = np.arange(n) + 1_005 if at is None else np.array(at)
    return Decoded(columns, times, np.ones(n, np.bool_), []), np.full(n, 500)


def test_calls_are_counted_by_variant_and_interval():
    found = evidence()
    found.add_served(batch(4, stage_ms={"model": 2.0})[0], 100)
    failed = {"fallback": ["default"] * 3, "failed": np.ones(3, np.bool_)}
    found.add_served(shadow(3, stage_ms={"model": 700.0}, **failed), 200)
    found.add_served(shadow(4, stage_ms={"model": 9.0}), 300)
    found.add_served(batch(4, model_version="2")[0], 300)  # of an earlier champion
    first = found.at(100, 0)
    assert (first.champion.requests, first.candidate.requests) == (4, 7)
    assert first.candidate.ms.tolist() == pytest.approx([700, 9])
    assert first.candidate.failed.tolist() == [True, False]
    assert first.candidate.fallbacks.tolist() == [3, 0]
    assert first.candidate.error_share == first.candidate.fallback_share == pytest.approx(3 / 7)
    # The default is no score of the model's.
    assert first.candidate.scores.counts == first.champion.scores.counts == [2, 2]
    later = found.at(300, 0)
    assert later.candidate.requests == 4
    # A run of calls may be slower than intervals are.
    assert [calls.requests for calls in later.recent] == [4, 7]
    assert [calls.requests for calls in found.at(300_300, 0).recent] == [0, 4]


def test_calls_are_in_the_order_of_time_whichever_partition_was_read_first():
    """Six that failed are not six in a row when good ones lie between them."""
    found = evidence()
    for at_ms in range(100, 112, 2):
        found.add_served(shadow(2, failed=np.ones(2, np.bool_)), at_ms)
    assert found.at(0, 0).candidate.failed.tolist() == [True] * 6
    for at_ms in range(101, 113, 2):
        found.add_served(shadow(2), at_ms)
    assert found.at(0, 0).candidate.failed.tolist() == [True, False] * 6


def test_labels_by_entity_and_time_compare_both_on_the_same_requests():
    found = evidence(policy=Policy(metrics=("brier",)))
    found.add_served(batch(4)[0], 100)
    found.add_served(shadow(4, score=np.full(4, 0.5, np.float32)), 101)
    found.add_labels(*outcomes([5.0, 20.0, None, 10.0]))
    (brier,) = found.at(0, LATER).quality
    assert brier.paired
    assert brier.labels == (3, 3)
    champion = np.linspace(0.1, 0.9, 4)[[0, 1, 3]] - [0, 1, 1]
    assert brier.champion == pytest.approx(float(np.mean(champion**2)))
    assert brier.candidate == pytest.approx(0.25)
    assert (found.counts.joined, found.unusable) == (3, 1)


def test_labels_by_prediction_id_compare_a_canary_apart():
    route = Route("requests", "m", "out", labels="o", label_field="amount", label_id="id")
    found = evidence(route, Policy(metrics=("brier",)))
    one, p = batch(2)
    found.add_served(one, 100)
    two, q = batch(2, model_version="4", variant="canary", offset=np.array([90, 91]))
    found.add_served(two, 100)
    ids = [*prediction_ids(p).to_pylist(), *prediction_ids(q).to_pylist()]
    found.add_labels(*outcomes([1, 0, 1, 7], ids=ids))
    (brier,) = found.at(0, LATER).quality
    assert not brier.paired
    assert brier.labels == (2, 1)  # 7 is neither 0 nor 1
    assert found.unusable == 1


def test_a_request_without_an_entity_is_about_nobody():
    found = evidence()
    whose = {"card": strings(["c", None]), "shop": numeric([0, 1])}
    found.add_served(batch(2, entity=whose)[0], 100)
    found.add_labels(*outcomes([5.0, 20.0]))
    found.at(0, LATER)
    assert (found.counts.joined, found.counts.unmatched) == (1, 1)
