"""What computes a model: one function for each kind of model file.

The same code runs in the scoring worker and, copied beside `model.py`, in Triton's Python backend,
which has an environment of its own. So NumPy and the runtimes are all that may be imported here,
and a runtime only when a model of its kind is opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["MODEL_FILES", "open_model"]

MODEL_FILES = {
    "xgboost": "xgboost.ubj",
    "lightgbm": "model.txt",
    "treelite": "checkpoint.tl",
    "onnx": "model.onnx",
}
"""Kind -> file of a version. The names are those that Triton's FIL backend and its ONNX Runtime
backend look for."""


def open_model(folder: str, kind: str, task: str, nthread: int) -> Callable[[Any], Any]:
    """The function of the model in a version's directory: float32 (n, features), NaN for missing,
    to float32 scores.

    Scores have the shape (n,), for `multiclass` (n, classes). A binary model's score is the
    probability of the positive class. Safe from several threads. Raises whatever the runtime
    raises for a file that it cannot read, and ImportError where the runtime is not installed.
    """
    raw = _OPENERS[kind](os.path.join(folder, MODEL_FILES[kind]), nthread)  # noqa: PTH118

    def scores(matrix: Any) -> Any:
        found = np.asarray(raw(matrix), np.float32)
        # Some runtimes answer (n,), some (n, 1), some (n, 1, classes).
        found = found.reshape(len(found), found.shape[-1] if found.ndim > 1 else 1)
        return found if task == "multiclass" else found[:, -1]

    return scores


def _xgboost(path: str, nthread: int) -> Callable[[Any], Any]:
    import xgboost

    booster = xgboost.Booster(model_file=path)
    booster.set_param({"nthread": nthread})
    return booster.inplace_predict


def _lightgbm(path: str, nthread: int) -> Callable[[Any], Any]:
    import lightgbm

    booster = lightgbm.Booster(model_file=path)
    return lambda matrix: booster.predict(matrix, num_threads=nthread)


def _treelite(path: str, nthread: int) -> Callable[[Any], Any]:
    import treelite

    model = treelite.Model.deserialize(path)
    # A model of float64 thresholds takes float64; what float32 holds, float64 holds exactly.
    return lambda matrix: treelite.gtil.predict(
        model, np.ascontiguousarray(matrix, model.input_type), nthread=nthread
    )


def _onnx(path: str, nthread: int) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = nthread
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda matrix: session.run(["output__0"], {"input__0": matrix})[0]


_OPENERS: dict[str, Callable[[str, int], Callable[[Any], Any]]] = {
    "xgboost": _xgboost,
    "lightgbm": _lightgbm,
    "treelite": _treelite,
    "onnx": _onnx,
}
