"""What `streamsvc predictions explain` says, held against the prediction and its vector."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import numpy as np
import pytest
from support.repo import RunningRepo


def assert_explained(repo: RunningRepo, answer: Mapping, vector: Mapping[str, float]) -> dict:
    """`vector` is what was served, feature -> float32; returns what the command says."""
    told = json.loads(repo.streamsvc("predictions", "explain", answer["prediction_id"], "--json"))
    same = ("score", "decision", "model_version", "variant", "entity", "latency_ms", "fallback")
    assert {name: told[name] for name in same} == {
        **{name: answer[name] for name in same},
        "score": pytest.approx(answer["score"], rel=1e-6),
    }
    assert {p["feature"] for p in told["features"]} == set(vector)
    for part in told["features"]:
        served = vector[part["feature"]]
        assert part["value"] == (None if np.isnan(served) else pytest.approx(served))
    parts = [part["contribution"] for part in told["features"]]
    assert sum(parts) + told["base"] == pytest.approx(told["margin"], abs=1e-4)
    assert 1 / (1 + math.exp(-told["margin"])) == pytest.approx(answer["score"], abs=1e-6)
    text = repo.streamsvc("predictions", "explain", answer["prediction_id"], "--all")
    for part in told["features"]:
        assert part["feature"] in text
    return told
