"""A model in this process: the fallback when no server answers, and what golden vectors come from.

Its runtime is imported when the first model of its kind is loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import F32, ModelCard, load_card
from streamsvc.models.files import check_files
from streamsvc.models.runtimes import MODEL_FILES, open_model

__all__ = ["LocalModel", "open_version"]


class LocalModel:
    """One version of a model, from its directory in the repository.

    Raises ConfigurationError for a version whose files are missing, damaged or no model.
    """

    def __init__(self, version_dir: Path, *, nthread: int = 1) -> None:
        self.card: ModelCard = load_card(version_dir)
        check_files(version_dir, self.card.files)
        self._scores = open_version(self.card, version_dir, nthread)

    def predict(self, matrix: F32) -> F32:
        """Scores, float32 (n,), of a float32 matrix (n, features) with NaN for missing.

        Of a multiclass model (n, classes). Columns are in the order of `card.features`. Releases
        the GIL; safe from several threads.
        """
        scores: F32 = self._scores(matrix)
        return scores


def open_version(card: ModelCard, folder: Path, nthread: int = 1) -> Callable[[F32], F32]:
    """The function of the model file in a folder. Raises ConfigurationError if there is none."""
    path = folder / MODEL_FILES[card.kind]
    try:
        found: Callable[[F32], F32] = open_model(str(folder), card.kind, card.task, nthread)
    except ImportError as error:
        raise ConfigurationError(
            f"{card.model} is a model of the kind {card.kind}, and {error.name} is not installed: "
            "pip install 'streamsvc[kinds]'"
        ) from error
    except Exception as error:  # each runtime has its own
        raise ConfigurationError(
            f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error
    return found
