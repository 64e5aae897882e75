"""Boosting on a Dask cluster of two workers, against boosting in one place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.dask_workers import PATIENCE_S, cluster

from streamsvc.dask_cluster import dask_cluster
from streamsvc.models.booster_dask import _spread
from streamsvc.models.golden import check_golden
from streamsvc.models.local_model import LocalModel
from streamsvc.models.metrics import auc
from streamsvc.models.split import split_by_time
from streamsvc.models.train import TrainingJob, fit_and_publish
from streamsvc.models.training_data import Examples

DAY_MS = 86_400_000
TOLERANCE = 0.01
"""Of AUC, as docs/training.md has it."""


def examples(n: int) -> Examples:
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(n, 6)).astype(np.float32)
    margin = matrix[:, 0] + matrix[:, 1] * matrix[:, 2] + 0.5 * np.abs(matrix[:, 3])
    labels = margin + rng.normal(size=n) > 0.5
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    features = [f"v:f{i}" for i in range(6)]
    return Examples(features, matrix, labels, np.sort(rng.integers(0, 100 * DAY_MS, n)))


def test_two_workers_boost_as_good_a_model_as_one_place(tmp_path: Path) -> None:
    data = examples(30_000)
    local = TrainingJob("s", tmp_path / "unused", "late", "m")
    with cluster(tmp_path) as (address, _):
        with dask_cluster(address, "test") as client:
            client.wait_for_workers(2, timeout=PATIENCE_S)
            workers = sorted(client.scheduler_info(n_workers=-1)["workers"])
            spread = _spread(client, workers, (data.matrix[:99], data.labels[:99]))
            held = client.has_what()
            assert [len(held[worker]) for worker in workers] == [2, 2]
            for found, wanted in zip(spread, (data.matrix, data.labels), strict=True):
                np.testing.assert_array_equal(found.compute(), wanted[:99])
        there = fit_and_publish(data, tmp_path / "models", replace(local, scheduler=address))
    here = fit_and_publish(data, tmp_path / "models", local)
    assert (here.boosted_on, there.boosted_on) == ("cpu", "2 Dask workers")
    held_out = split_by_time(data.event_ms).test
    found = []
    for trained in (here, there):
        model = LocalModel(trained.version_dir)
        check_golden(trained.card, model.predict, "this process")
        scores = model.predict(data.matrix[held_out])
        found.append(auc(data.labels[held_out], scores))
        assert trained.card.metrics["auc"] == pytest.approx(found[-1])
        assert sum(trained.gain.values()) == pytest.approx(1)
    assert min(found) > 0.8
    assert found[1] > found[0] - TOLERANCE
