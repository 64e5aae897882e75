"""A model that somebody trained elsewhere, as a version like any other.

What a card says beyond the model itself comes from the rows that it was trained on: when they were,
the distribution of every feature and of the score, metrics, and golden vectors.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import I64
from streamsvc.definitions.meaning import feature_meanings, feature_types
from streamsvc.definitions.plan import Plan
from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import F32, Golden, ModelCard, Task
from streamsvc.models.compatibility import check_features
from streamsvc.models.foreign import ForeignModel, read_model
from streamsvc.models.golden import choose_golden
from streamsvc.models.histogram import histogram
from streamsvc.models.local_model import open_version
from streamsvc.models.metrics import auc, log_loss
from streamsvc.models.runtimes import MODEL_FILES
from streamsvc.models.training_data import TIME_COLUMN, matrix_of

__all__ = ["ModelFile", "read_features", "unpublished"]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What to register."""

    service: str
    model: str
    file: Path
    features: Path
    """See `read_features`."""
    rows: Path
    """Parquet: `event_timestamp`, `view__feature` for each feature, and maybe the label."""
    label_column: str | None = None
    task: Task | None = None
    """Needed where the file does not say."""
    threshold: float = 0.5
    instances: Literal["auto", "gpu", "cpu"] = "auto"
    tensorrt: bool = False


def read_features(path: Path) -> dict[str, str]:
    """Feature -> type, in the order of the model's columns; "" where no type is given.

    A JSON list `["view:feature", …]`, or an object `{"view:feature": "Float64", …}`. Raises
    ConfigurationError for anything else.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=list[str] | dict[str, str])
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigurationError(
            f"The features {path} cannot be read ({error}): give a JSON list of view:feature in "
            "the order of the model's columns, or an object that says the type of each"
        ) from error
    if len(set(found)) < len(found):
        raise ConfigurationError(f"The features {path} name one of them twice")
    return found if isinstance(found, dict) else dict.fromkeys(found, "")


def unpublished(wanted: ModelFile, plan: Plan) -> tuple[ModelCard, bytes]:
    """The card of a model file, with version 0, and the content that is to be published.

    Raises ConfigurationError for a model that cannot be served, that does not fit its features, or
    whose features the FeatureService does not have.
    """
    service = plan.service(wanted.service)
    given = read_features(wanted.features)
    found = read_model(wanted.file)
    _check_columns(found, wanted.file, list(given))
    task = _task(found, wanted)
    types, meanings = feature_types(plan, service), feature_meanings(plan, service)
    card = ModelCard(
        *(wanted.model, 0, wanted.service, list(given)),
        trained_from_ms=0,
        trained_until_ms=0,
        rows=0,
        metrics={},
        histograms={},
        score=histogram(np.empty(0, np.float32)),
        golden=Golden([], []),
        threshold=wanted.threshold,
        kind=found.kind,
        task=task,
        classes=list(found.classes or map(str, range(found.outputs)))
        if task == "multiclass"
        else [],
        outputs=found.outputs,
        instances=wanted.instances,
        tensorrt=wanted.tensorrt,
        feature_types=[given[name] or types.get(name, "") for name in given],
        definitions={name: meanings[name] for name in given if name in meanings},
    )
    check_features(card, plan, service)
    if wanted.tensorrt and (found.kind != "onnx" or wanted.instances == "cpu"):
        raise ConfigurationError("--tensorrt is for ONNX models on a GPU")
    matrix, event_ms, labels = _rows(wanted, list(given))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MODEL_FILES[found.kind]).write_bytes(found.content)
        predict = open_version(card, Path(folder))
        scores = predict(matrix)
        golden = choose_golden(matrix, predict)
    unanswered = int(np.isnan(np.reshape(golden.outputs, (len(golden.inputs), -1))).any(1).sum())
    if unanswered:
        raise ConfigurationError(
            f"{wanted.file} answers {unanswered} of {len(golden.inputs)} golden vectors with NaN, "
            "where features are missing: let the model itself put something in their place"
        )
    complete = msgspec.structs.replace(
        card,
        trained_from_ms=int(event_ms.min()),
        trained_until_ms=int(event_ms.max()),
        rows=len(matrix),
        metrics={} if labels is None else _metrics(task, labels, scores),
        histograms={name: histogram(matrix[:, i]) for i, name in enumerate(given)},
        # Of a multiclass model the chance of the class that it decides for.
        score=histogram(scores.max(axis=1) if scores.ndim == 2 else scores),
        golden=golden,
    )
    return complete, found.content


def _check_columns(found: ForeignModel, path: Path, features: list[str]) -> None:
    if found.n_features != len(features):
        raise ConfigurationError(
            f"{path} takes {found.n_features} columns, and {len(features)} features are given"
        )
    plain = [name.replace(":", "__", 1) for name in found.names]
    asked = [name.replace(":", "__", 1) for name in features]
    if sorted(plain) == sorted(asked) and plain != asked:
        column = next(i for i, (a, b) in enumerate(zip(plain, asked, strict=True)) if a != b)
        raise ConfigurationError(
            f"Column {column + 1} of {path} is {found.names[column]}, and the features given have "
            f"{features[column]} there: give them in the order of the model"
        )


def _task(found: ForeignModel, wanted: ModelFile) -> Task:
    task = found.task or wanted.task
    if task is None:
        raise ConfigurationError(
            f"{wanted.file} does not say what its answers are: add --task binary (the probability "
            "of the positive class), --task regression or --task multiclass"
        )
    if wanted.task not in {None, task}:
        raise ConfigurationError(f"{wanted.file} is a {task} model, and --task is {wanted.task}")
    if task == "regression" and found.outputs != 1:
        raise ConfigurationError(f"{wanted.file} answers with {found.outputs} values, not with one")
    return task


def _rows(wanted: ModelFile, features: list[str]) -> tuple[F32, I64, NDArray[np.generic] | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    label = wanted.label_column
    needed = [TIME_COLUMN, *(name.replace(":", "__", 1) for name in features)]
    needed += [] if label is None else [label]
    try:
        there = pq.read_schema(wanted.rows).names
        missing = [name for name in needed if name not in there]
        if missing:
            raise ConfigurationError(f"The rows {wanted.rows} have no column {', '.join(missing)}")
        table: Any = pq.read_table(wanted.rows, columns=needed)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigurationError(f"The rows {wanted.rows} cannot be read: {error}") from error
    if table.num_rows == 0:
        raise ConfigurationError(f"The rows {wanted.rows} are none")
    times = table.column(TIME_COLUMN).cast(pa.timestamp("ms", "UTC"), safe=False)
    labels = None if label is None else table.column(label).to_numpy(zero_copy_only=False)
    return matrix_of(table, features), times.cast(pa.int64()).to_numpy(), labels


def _metrics(task: Task, labels: NDArray[np.generic], scores: F32) -> dict[str, float]:
    """Of the rows given, which the model may have been fitted to: `training_` says so."""
    if task == "binary":
        found = {"auc": auc(labels, scores), "log_loss": log_loss(labels, scores)}
        found["positive_share"] = float(labels.astype(bool).mean())
    elif task == "regression":
        error = scores.astype(np.float64) - labels.astype(np.float64)
        found = {"rmse": float(np.sqrt(np.mean(error**2))), "mae": float(np.mean(np.abs(error)))}
    else:
        found = {"accuracy": float(np.mean(scores.argmax(axis=1) == labels.astype(np.int64)))}
    return {f"training_{name}": value for name, value in found.items()}
