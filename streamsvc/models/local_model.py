"""A model in this process: the fallback when no server answers, and what golden vectors come from.

XGBoost is imported when the first model is loaded.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import BOOSTER_FILE, F32, ModelCard, load_card

__all__ = ["LocalModel"]


class LocalModel:
    """One version of a model, from its directory in the repository."""

    def __init__(self, version_dir: Path, *, nthread: int = 1) -> None:
        import xgboost

        self.card: ModelCard = load_card(version_dir)
        try:
            self._booster = xgboost.Booster(model_file=version_dir / BOOSTER_FILE)
        except xgboost.core.XGBoostError as error:
            raise ConfigurationError(
                f"{version_dir / BOOSTER_FILE} cannot be read: {str(error).splitlines()[0]}"
            ) from error
        self._booster.set_param({"nthread": nthread})

    def predict(self, matrix: F32) -> F32:
        """Probabilities, float32 (n,), of a float32 matrix (n, features) with NaN for missing.

        Columns are in the order of `card.features`. Releases the GIL; safe from several threads.
        """
        scores: F32 = self._booster.inplace_predict(matrix)
        return np.asarray(scores, np.float32)
