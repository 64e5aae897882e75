"""Files of XGBoost, LightGBM, scikit-learn and ONNX, read into what a version holds.

Files of scikit-learn are pickles, which can run anything when they are opened. They are opened
here, by whoever registers them, and nowhere else: a version holds them as a Treelite checkpoint,
which is data, and which Triton's FIL backend takes as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import Kind, Task
from streamsvc.models.onnx_file import read_onnx

__all__ = ["ForeignModel", "read_model"]


@dataclass(frozen=True, slots=True)
class ForeignModel:
    """What a model file says of itself."""

    kind: Kind
    content: bytes
    """The file that a version of this kind holds."""
    n_features: int
    outputs: int
    """Numbers that it answers a row with."""
    task: Task | None
    """None where the file does not tell a regression from a probability."""
    names: tuple[str, ...] = ()
    """Names of its columns, if it has any."""
    classes: tuple[str, ...] = ()


def read_model(path: Path) -> ForeignModel:
    """Read a model file; its ending says whose it is.

    Raises ConfigurationError for a file that cannot be read, a model that cannot be served, and a
    library that is not installed.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ConfigurationError(
            f"{path} ends with none of {', '.join(_READERS)}: XGBoost's own files end with .ubj or "
            ".json, LightGBM's with .txt, scikit-learn's with .joblib or .pkl, others with .onnx"
        )
    try:
        return reader(path)
    except ConfigurationError:
        raise
    except ImportError as error:
        raise ConfigurationError(
            f"{path} cannot be read without {error.name}: pip install 'streamsvc[kinds]', and "
            "scikit-learn for its own models"
        ) from error
    except Exception as error:  # each library has its own
        raise ConfigurationError(
            f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}"
        ) from error


def _xgboost(path: Path) -> ForeignModel:
    import xgboost

    booster = xgboost.Booster(model_file=path)
    learner = json.loads(booster.save_config())["learner"]
    objective = str(learner["objective"]["name"])
    classes = int(learner["learner_model_param"]["num_class"])
    task: Task
    if objective in {"binary:logistic", "reg:logistic"}:
        task = "binary"
    elif objective == "multi:softprob":
        task = "multiclass"
    elif objective.startswith(("reg:", "count:")):
        task = "regression"
    else:
        raise ConfigurationError(
            f"{path} has the objective {objective}, whose answers are neither probabilities nor "
            "values: use binary:logistic, multi:softprob, or one of reg:* and count:*"
        )
    return ForeignModel(
        "xgboost",
        bytes(booster.save_raw("ubj")),
        booster.num_features(),
        classes if task == "multiclass" else 1,
        task,
        tuple(booster.feature_names or ()),
    )


def _lightgbm(path: Path) -> ForeignModel:
    import lightgbm

    booster = lightgbm.Booster(model_file=path)
    text = path.read_text()
    found = re.search(r"^objective=(\w+)", text, re.M)
    objective = found[1] if found else "none"
    task: Task
    if objective in {"binary", "cross_entropy"}:
        task = "binary"
    elif objective in {"multiclass", "softmax"}:
        task = "multiclass"
    elif objective in {"regression", "regression_l1", "huber", "fair", "poisson", "quantile"} | {
        *("mape", "gamma", "tweedie")
    }:
        task = "regression"
    else:
        raise ConfigurationError(
            f"{path} has the objective {objective}, whose answers are neither probabilities nor "
            "values: use binary, multiclass or regression"
        )
    names = tuple(booster.feature_name())
    return ForeignModel(
        *("lightgbm", text.encode(), booster.num_feature(), booster.num_model_per_iteration()),
        task,
        () if names == tuple(f"Column_{i}" for i in range(len(names))) else names,
    )


def _scikit_learn(path: Path) -> ForeignModel:
    import joblib
    import treelite
    from sklearn.base import is_classifier

    estimator = joblib.load(path)
    try:
        model = treelite.sklearn.import_model(estimator)
    except (TypeError, ValueError, NotImplementedError, treelite.TreeliteError) as error:
        raise ConfigurationError(
            f"{path} holds a {type(estimator).__name__}, and trees of scikit-learn can be served "
            f"only: forests, extra trees, gradient boosting ({error}). Export others to ONNX"
        ) from error
    classes = tuple(str(name) for name in getattr(estimator, "classes_", ()))
    task: Task = "regression"
    if is_classifier(estimator):
        task = "binary" if len(classes) == 2 else "multiclass"
    header = model.get_header_accessor()
    return ForeignModel(
        *("treelite", bytes(model.serialize_bytes()), model.num_feature),
        int(header.get_field("num_class")[0]),
        task,
        tuple(str(name) for name in getattr(estimator, "feature_names_in_", ())),
        classes if task == "multiclass" else (),
    )


def _onnx(path: Path) -> ForeignModel:
    content, n_features, outputs = read_onnx(path)
    return ForeignModel("onnx", content, n_features, outputs, "multiclass" if outputs > 2 else None)


_READERS: dict[str, Callable[[Path], ForeignModel]] = {
    ".ubj": _xgboost,
    ".json": _xgboost,
    ".txt": _lightgbm,
    ".joblib": _scikit_learn,
    ".pkl": _scikit_learn,
    ".onnx": _onnx,
}
