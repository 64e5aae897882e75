"""Requests, predictions and outcomes join whatever order they are read in."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from streamsvc.demo.scoreboard import Latencies, Scoreboard


def record(partition: int, offset: int, score: float, **more: Any) -> dict[str, Any]:
    return {
        "prediction_id": f"late_arrival-flights.scheduled-{partition}-{offset}-abc",
        "score": score,
        "ahead_ms": 0,
        "fallback": None,
        "source": {"topic": "flights.scheduled", "partition": partition, "offset": offset},
        **more,
    }


def test_a_request_and_its_prediction_join_in_any_order() -> None:
    steps: list[Callable[[Scoreboard], None]] = [
        lambda board: board.request((0, 7), "a", 1_000.0),
        lambda board: board.prediction(record(0, 7, 0.25), 1_030.0),
        lambda board: board.prediction(record(0, 7, 0.25), 1_090.0),
    ]
    for order in itertools.permutations(steps):
        board = Scoreboard()
        for step in order:
            step(board)
        standing = board.standing()
        assert (standing.requests, standing.predictions, standing.duplicates) == (1, 1, 1)
        ((flight, sent_ms, answer),) = board.answered()
        assert (flight, sent_ms, answer.score) == ("a", 1_000.0, 0.25)
        # Whichever was read first counts.
        assert standing.latency_ms.p50 == answer.received_ms - 1_000.0


def test_fallbacks_are_counted_once_a_request() -> None:
    board = Scoreboard()
    for _ in range(3):
        board.prediction(record(1, 2, 0.5, fallback="default"), 0.0)
    board.prediction(record(1, 3, 0.5), 0.0)
    standing = board.standing()
    assert (standing.fallbacks, standing.predictions, standing.duplicates) == (1, 2, 2)


def test_a_request_without_prediction_is_not_answered() -> None:
    board = Scoreboard()
    board.request((0, 0), "a", 0.0)
    board.request((0, 1), "b", 0.0)
    board.prediction(record(0, 1, 0.5), 1.0)
    assert [flight for flight, _, _ in board.answered()] == ["b"]


def test_the_rolling_auc_is_that_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    late, scores = rng.random(500) < 0.3, rng.random(500).round(2)  # with ties
    board = Scoreboard()
    assert math.isnan(board.standing().rolling_auc)
    for i, score in enumerate(scores.tolist()):
        board.request((0, i), f"f{i}", 0.0)
        board.prediction(record(0, i, score), 1.0)
    board.outcome("nobody asked", True)
    for i, outcome in enumerate(late.tolist()):
        board.outcome(f"f{i}", outcome)
    standing = board.standing()
    assert standing.labelled == 500
    assert standing.rolling_auc == pytest.approx(roc_auc_score(late, scores), abs=1e-12)


def test_latencies_are_percentiles_and_nan_of_nothing() -> None:
    found = Latencies.of(range(101))
    assert (found.p50, found.p99) == (50.0, 99.0)
    assert math.isnan(Latencies.of([]).p50)
