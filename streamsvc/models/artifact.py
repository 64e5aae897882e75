"""What a trained model says about itself: `model.json`, kept beside the booster in every version.

The card holds everything that a server, a drift monitor or a reviewer needs without the training
data: the order of the features, where the rows came from, the distribution of every feature, and
golden vectors that tell whether some other server computes the same function.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamsvc.errors import ConfigurationError
from streamsvc.models.histogram import Histogram

__all__ = [
    "CARD_FILE",
    "F32",
    "Golden",
    "Kind",
    "ModelCard",
    "Task",
    "latest_version",
    "load_card",
    "save_card",
    "served_versions",
]

F32: TypeAlias = NDArray[np.float32]
Kind: TypeAlias = Literal["xgboost", "lightgbm", "treelite", "onnx"]
"""What computes the model; models of scikit-learn are kept as Treelite checkpoints."""
Task: TypeAlias = Literal["binary", "multiclass", "regression"]

CARD_FILE = "model.json"


class Golden(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Vectors and what the model answered where it was trained. A missing value is null."""

    inputs: list[list[float | None]]
    outputs: list[float]
    """One answer a vector; of a multiclass model one a vector and class, row by row."""

    @classmethod
    def of(cls, inputs: F32, outputs: F32) -> Golden:
        """From a float32 matrix [n, features], NaN for missing, and scores [n] or [n, classes]."""
        # float32 widened to a Python float survives JSON exactly.
        rows = [[None if np.isnan(x) else float(x) for x in row] for row in inputs]
        return cls(rows, [float(p) for p in outputs.reshape(-1)])

    def matrix(self) -> F32:
        """The inputs as the model takes them: float32, NaN for missing."""
        rows = [[np.nan if x is None else x for x in row] for row in self.inputs]
        return np.array(rows, np.float32)


class ModelCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of one model. Instants are milliseconds since the epoch, UTC."""

    model: str
    version: int
    service: str
    features: list[str]
    """`view:feature` in the order of the model's input columns."""
    trained_from_ms: int
    trained_until_ms: int
    """Event times of the first and the last row that the booster was fitted to, inclusive."""
    rows: int
    metrics: dict[str, float]
    """Of the held-out rows: `auc`, `log_loss`, `positive_share`, `test_rows`, …"""
    histograms: dict[str, Histogram]
    """Feature -> its distribution in the training rows."""
    score: Histogram
    """Distribution of the model's own answers on the training rows."""
    golden: Golden
    threshold: float = 0.5
    """A score at or above it is the positive decision."""
    kind: Kind = "xgboost"
    task: Task = "binary"
    classes: list[str] = []
    """Names of a multiclass model's classes, in the order of its outputs."""
    outputs: int = 1
    """Numbers that the model file itself answers with; the last is a binary model's score."""
    instances: Literal["auto", "gpu", "cpu"] = "auto"
    """Where NVIDIA's container runs it; `auto` is a GPU if there is one."""
    tensorrt: bool = False
    """Whether NVIDIA's container runs an ONNX model by TensorRT."""
    feature_types: list[str] = []
    """Feast value type of each of `features`; empty in cards that are older than the field."""
    definitions: dict[str, str] = {}
    """Feature -> digest of what it meant in the FeatureService that the model was trained for."""
    files: dict[str, str] = {}
    """File of the version -> SHA-256."""

    @property
    def scores(self) -> int:
        """How many scores a vector gets: one, or one a class."""
        return self.outputs if self.task == "multiclass" else 1


def save_card(card: ModelCard, version_dir: Path) -> Path:
    """Write `model.json`; returns its path."""
    path = version_dir / CARD_FILE
    path.write_bytes(msgspec.json.format(msgspec.json.encode(card), indent=1))
    return path


def load_card(version_dir: Path) -> ModelCard:
    """Read `model.json` of a version directory.

    Raises ConfigurationError if it is missing or not a card.
    """
    path = version_dir / CARD_FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelCard)
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"{path} is missing: `streamsvc train` and `streamsvc models register` write it with "
            "the model"
        ) from error
    except msgspec.DecodeError as error:
        raise ConfigurationError(f"{path} is not a model card: {error}") from error


def served_versions(model_dir: Path) -> list[int]:
    """Versions in a model directory, ascending: its directories with a whole-number name."""
    if not model_dir.is_dir():
        return []
    return sorted(int(p.name) for p in model_dir.iterdir() if p.is_dir() and p.name.isdecimal())


def latest_version(model_dir: Path) -> Path:
    """Directory of the newest version. Raises ConfigurationError if there is none."""
    versions = served_versions(model_dir)
    if not versions:
        raise ConfigurationError(
            f"No version of a model in {model_dir}: run `streamsvc train` first, "
            "or set model_repository to where the models are"
        )
    return model_dir / str(versions[-1])
