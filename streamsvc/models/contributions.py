"""What each feature contributed to one score: SHAP values of a tree ensemble.

Lundberg, Erion & Lee, *Consistent Individualized Feature Attribution for Tree Ensembles* (2018), as
XGBoost computes them (`pred_contribs`). XGBoost is imported when the first model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from streamsvc.columns import F64
from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import F32

__all__ = ["Contributions", "contributions"]

BOOSTER_FILE = "xgboost.ubj"


@dataclass(frozen=True, slots=True, eq=False)
class Contributions:
    """`base + values.sum()` is the margin, in the model's own scale: log odds of a classifier."""

    values: F64
    """Shape (features,), in the model's order."""
    base: float
    """The margin that the model expects before it sees a feature."""
    margin: float


def contributions(version_dir: Path, vector: F32) -> Contributions:
    """Of a vector of shape (features,) with NaN for missing, to what a version answers to it.

    Raises ConfigurationError if the version has no booster, or one with several outputs.
    """
    import xgboost

    path = version_dir / BOOSTER_FILE
    try:
        booster = xgboost.Booster(model_file=path)
    except xgboost.core.XGBoostError as error:
        raise ConfigurationError(
            f"Contributions are those of an XGBoost model, and {path} is none or gone: "
            f"{str(error).splitlines()[0]}"
        ) from error
    matrix = xgboost.DMatrix(vector.reshape(1, -1))
    found = np.asarray(booster.predict(matrix, pred_contribs=True), np.float64)
    if found.ndim != 2:
        raise ConfigurationError(
            f"{path} has {found.shape[1]} outputs; contributions are to a single one"
        )
    margin = float(booster.predict(matrix, output_margin=True)[0])
    return Contributions(found[0, :-1], float(found[0, -1]), margin)
