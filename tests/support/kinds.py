"""Small models of every kind, as the files in which their own libraries keep them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

FEATURES = 5


def data(rows: int = 600, features: int = FEATURES, seed: int = 3) -> tuple[Any, Any]:
    """A float32 matrix with a tenth of it missing, and classes 0, 1 and 2."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(rows, features)).astype(np.float32)
    classes = (matrix[:, 0] > 0).astype(np.int64) + (matrix[:, 1] > 0.5)
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    return matrix, classes


def xgboost_file(path: Path, objective: str, features: int = FEATURES, rounds: int = 10) -> Path:
    import xgboost

    matrix, classes = data(features=features)
    parameters = {"objective": objective, "nthread": 1, "max_depth": 4}
    if objective.startswith("multi:"):
        parameters["num_class"] = 3
    elif objective.startswith("binary:"):
        classes = classes > 0
    xgboost.train(parameters, xgboost.DMatrix(matrix, classes), rounds).save_model(path)
    return path


def lightgbm_file(path: Path, objective: str, features: int = FEATURES, rounds: int = 10) -> Path:
    import lightgbm

    matrix, classes = data(features=features)
    parameters = {"objective": objective, "num_threads": 1, "verbose": -1, "num_leaves": 15}
    if objective == "multiclass":
        parameters["num_class"] = 3
    elif objective == "binary":
        classes = classes > 0
    lightgbm.train(parameters, lightgbm.Dataset(matrix, classes), rounds).save_model(path)
    return path


def scikit_learn_file(path: Path, estimator: Any, binary: bool = True) -> Path:
    import joblib

    matrix, classes = data()
    joblib.dump(estimator.fit(matrix, classes > 0 if binary else classes), path)
    return path


def onnx_file(
    path: Path, features: int = FEATURES, answers: int = 1, hidden: int = 16, **names: str
) -> Path:
    """A network of two layers that puts zero in the place of what is missing."""
    from onnx import TensorProto, helper, numpy_helper, save

    rng = np.random.default_rng(5)
    given, answered = names.get("given", "x"), names.get("answered", "y")

    def weights(name: str, *shape: int) -> Any:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    node = helper.make_node
    graph = helper.make_graph(
        [
            node("IsNaN", [given], ["missing"]),
            node("Where", ["missing", "zero", given], ["filled"]),
            node("Gemm", ["filled", "w1", "b1"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("Gemm", ["r", "w2", "b2"], ["logits"]),
            node("Sigmoid" if answers == 1 else "Softmax", ["logits"], [answered]),
        ],
        "network",
        [helper.make_tensor_value_info(given, TensorProto.FLOAT, ["n", features])],
        [helper.make_tensor_value_info(answered, TensorProto.FLOAT, ["n", answers])],
        [
            numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
            *(weights("w1", features, hidden), weights("b1", hidden)),
            *(weights("w2", hidden, answers), weights("b2", answers)),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    save(model, path)
    return path
