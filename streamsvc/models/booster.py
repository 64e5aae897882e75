"""Fit an XGBoost classifier: the same booster for the same rows on every run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsvc.models.artifact import F32
from streamsvc.models.device import Device

__all__ = ["Fitted", "Rows", "fit", "fitted_of"]

Rows = tuple[F32, NDArray[np.bool_]]
"""A matrix and the labels of its rows."""

PARAMETERS: dict[str, Any] = {
    "objective": "binary:logistic",
    "eval_metric": "auc",
    "tree_method": "hist",
    "max_bin": 64,
    "max_depth": 5,
    "eta": 0.1,
    "min_child_weight": 50,
    "subsample": 0.8,
    "colsample_bytree": 0.6,
    "lambda": 2.0,
}
BLOCK_ROWS = 50_000
"""Rows of a set on disk that are in memory at a time."""
MOST_ROUNDS = 600
PATIENCE = 20


@dataclass(frozen=True, slots=True)
class Fitted:
    """A booster, as itself and as UBJSON, with the gain of each feature (a share of 1)."""

    booster: Any
    raw: bytes
    rounds: int
    gain: dict[str, float]
    where: str
    """What boosted: `cpu`, `cuda`, or how many workers."""

    def predict(self, matrix: F32) -> F32:
        """Probabilities, float32 (n,)."""
        return np.asarray(self.booster.inplace_predict(matrix), np.float32)


def fit(
    train: Rows,
    validation: Rows,
    features: list[str],
    *,
    seed: int,
    threads: int,
    device: Device = "cpu",
    pages: Path | None = None,
) -> Fitted:
    """Boost until the validation AUC has not grown for 20 rounds; keep the best rounds.

    Matrices are float32 with NaN for missing, columns in the order of `features`. With `pages`, a
    directory, they are read in blocks and kept there in the form that boosting reads: neither has
    to fit into memory, and the booster is the same. Such a set is boosted on the CPU.
    """
    import xgboost

    shared = {"nthread": threads, "max_bin": PARAMETERS["max_bin"]}
    if pages is None:
        first = xgboost.QuantileDMatrix(*train, **shared)
        second = xgboost.QuantileDMatrix(*validation, ref=first, **shared)
    else:
        device = "cpu"
        first = xgboost.ExtMemQuantileDMatrix(_blocks(train, pages / "train"), **shared)
        held = _blocks(validation, pages / "validation")
        second = xgboost.ExtMemQuantileDMatrix(held, ref=first, **shared)
    trained = xgboost.train(
        {**PARAMETERS, "seed": seed, "nthread": threads, "device": device},
        first,
        MOST_ROUNDS,
        evals=[(second, "validation")],
        early_stopping_rounds=PATIENCE,
        verbose_eval=False,
    )
    return fitted_of(trained, features, threads, device)


def fitted_of(trained: Any, features: list[str], threads: int, where: str) -> Fitted:
    """The best rounds of what training left behind."""
    import xgboost

    rounds = int(trained.best_iteration) + 1
    booster = trained[:rounds]
    raw = bytes(booster.save_raw("ubj"))
    # What is served is what was saved: judge that, not the object that training left behind.
    served = xgboost.Booster(model_file=bytearray(raw))
    served.set_param({"nthread": threads})
    found = booster.get_score(importance_type="total_gain")
    total = sum(found.values()) or 1.0
    gain = {name: float(found.get(f"f{i}", 0.0)) / total for i, name in enumerate(features)}
    return Fitted(served, raw, rounds, gain, where)


def _blocks(rows: Rows, pages: Path) -> Any:
    """Hands a matrix to XGBoost a block at a time, as often as it asks."""
    import xgboost

    matrix, labels = rows

    class Blocks(xgboost.DataIter):
        def __init__(self) -> None:
            self.at = 0
            super().__init__(cache_prefix=str(pages), release_data=True)

        def next(self, input_data: Any) -> bool:
            block = slice(self.at, self.at + BLOCK_ROWS)
            if self.at >= len(matrix):
                return False
            input_data(data=np.asarray(matrix[block]), label=labels[block])
            self.at += BLOCK_ROWS
            return True

        def reset(self) -> None:
            self.at = 0

    return Blocks()
