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


def contributions(version_dir: Path, vector: F32, output: int = 0) -> Contributions:
    """Of a vector of shape (features,) with NaN for missing, to one of the outputs of a version.

    Raises ConfigurationError if the version has no booster.
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
    # One row for each output: of a single one XGBoost leaves the dimension out.
    found = np.asarray(booster.predict(matrix, pred_contribs=True), np.float64)
    parts = found.reshape(-1, found.shape[-1])[output]
    margins = np.asarray(booster.predict(matrix, output_margin=True), np.float64).reshape(-1)
    return Contributions(parts[:-1], float(parts[-1]), float(margins[output]))
