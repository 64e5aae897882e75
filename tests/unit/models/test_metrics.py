from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from streamsvc.models.metrics import auc, log_loss

rows = st.lists(
    st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 1.0])),
    min_size=2,
    max_size=60,
).filter(lambda found: len({label for label, _ in found}) == 2)


@given(rows)
def test_they_are_what_scikit_learn_says(found: list[tuple[bool, float]]) -> None:
    labels = np.array([label for label, _ in found])
    scores = np.array([score for _, score in found])
    assert auc(labels, scores) == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    assert log_loss(labels, scores) == pytest.approx(sklearn_log_loss(labels, clipped))


def test_one_class_has_no_auc() -> None:
    assert math.isnan(auc(np.ones(3), np.array([0.1, 0.2, 0.3])))
