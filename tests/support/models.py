"""A model small enough to train in every test run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from streamsvc.models.artifact import F32, ModelCard
from streamsvc.models.golden import choose_golden
from streamsvc.models.histogram import histogram


@dataclass(frozen=True)
class SmallModel:
    card: ModelCard
    booster: bytes
    matrix: F32

    def version(self, number: int, model: str | None = None) -> ModelCard:
        name = model or self.card.model
        return msgspec.structs.replace(self.card, version=number, model=name)


def small_model(
    seed: int = 7, features: Sequence[str] = ("view:a", "view:b", "other:c")
) -> SmallModel:
    """Some features, 500 rows, ten trees; every seed is another function."""
    import xgboost

    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(500, len(features))).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    labels = np.nan_to_num(matrix[:, 0]) > 0.2
    parameters = {"objective": "binary:logistic", "nthread": 1}
    booster = xgboost.train(parameters, xgboost.DMatrix(matrix, labels), 10)
    card = ModelCard(
        model="late",
        version=1,
        service="late_arrival",
        features=list(features),
        trained_from_ms=1,
        trained_until_ms=2,
        rows=len(matrix),
        metrics={"auc": 0.9},
        histograms={name: histogram(matrix[:, i]) for i, name in enumerate(features)},
        score=histogram(booster.inplace_predict(matrix)),
        golden=choose_golden(matrix, booster.inplace_predict),
    )
    return SmallModel(card, bytes(booster.save_raw("ubj")), matrix)
