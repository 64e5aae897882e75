"""Model files of every kind, registered for the FeatureService of tests/support/scoring.py."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from sklearn.ensemble import GradientBoostingRegressor, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from support import kinds
from support.scoring import plan
from tritonclient.grpc import model_config_pb2

from streamsvc.definitions.plan import Route
from streamsvc.errors import ConfigurationError
from streamsvc.models.compatibility import check_alike, check_judgeable, check_routable
from streamsvc.models.golden import check_golden
from streamsvc.models.local_model import LocalModel
from streamsvc.models.registering import ModelFile, unpublished
from streamsvc.models.triton_repository import alike, native_repository, publish

FEATURES = ["cards:count_1m", "cards:sum_1m", "limits:limit", "ratios:ratio", "shops:sum_1h"]


def wanted(folder: Path, file: Path, features: Any = None, **more: Any) -> ModelFile:
    matrix, classes = kinds.data()
    names = folder / "features.json"
    names.write_text(json.dumps(features or FEATURES))
    rows = folder / "rows.parquet"
    columns = {name.replace(":", "__"): matrix[:, i] for i, name in enumerate(FEATURES)}
    times = pa.array(range(1_000, 1_000 + len(matrix)), pa.timestamp("ms", "UTC"))
    label = {"class": classes, "positive": classes > 0}
    pq.write_table(pa.table({"event_timestamp": times, **columns, **label}), rows)
    return ModelFile("risky", "risk", file, names, rows, **more)


def config(model_dir: Path) -> Any:
    text = (model_dir / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(parsed: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in parsed.parameters.items()}


def direct(file: Path, matrix: Any) -> Any:
    """What the library of the file answers."""
    if file.suffix == ".joblib":
        import joblib

        estimator = joblib.load(file)
        if hasattr(estimator, "predict_proba"):
            found = estimator.predict_proba(matrix)
            return found[:, 1] if found.shape[1] == 2 else found
        return estimator.predict(np.nan_to_num(matrix))
    if file.suffix == ".txt":
        import lightgbm

        return lightgbm.Booster(model_file=file).predict(matrix)
    if file.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        return session.run(None, {"x": matrix})[0]
    import xgboost

    return xgboost.Booster(model_file=file).predict(xgboost.DMatrix(matrix))


def forest(path: Path) -> Path:
    return kinds.scikit_learn_file(path, RandomForestClassifier(8, max_depth=5, random_state=0))


CASES = {
    "xgboost binary": (
        *("m.json", lambda p: kinds.xgboost_file(p, "binary:logistic"), {}, "positive"),
        *("binary", 1, {"model_type": "xgboost_ubj", "is_classifier": "true"}),
    ),
    "xgboost multiclass": (
        *("m.ubj", lambda p: kinds.xgboost_file(p, "multi:softprob"), {}, "class"),
        *("multiclass", 3, {"model_type": "xgboost_ubj", "predict_proba": "true"}),
    ),
    "xgboost regression": (
        *("m.ubj", lambda p: kinds.xgboost_file(p, "reg:squarederror"), {}, "class"),
        *("regression", 1, {"is_classifier": "false", "predict_proba": "false"}),
    ),
    "lightgbm binary": (
        *("m.txt", lambda p: kinds.lightgbm_file(p, "binary"), {}, "positive"),
        *("binary", 1, {"model_type": "lightgbm", "is_classifier": "true"}),
    ),
    "lightgbm multiclass": (
        *("m.txt", lambda p: kinds.lightgbm_file(p, "multiclass"), {}, "class"),
        *("multiclass", 3, {"model_type": "lightgbm"}),
    ),
    "scikit-learn forest": (
        *("m.joblib", forest, {}, "positive"),
        *("binary", 2, {"model_type": "treelite_checkpoint", "is_classifier": "true"}),
    ),
    "onnx binary": (
        *("m.onnx", kinds.onnx_file, {"task": "binary"}, "positive"),
        *("binary", 1, {}),
    ),
    "onnx multiclass": (
        *("m.onnx", lambda p: kinds.onnx_file(p, answers=3), {}, "class"),
        *("multiclass", 3, {}),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_file_becomes_a_version(case: str, tmp_path: Path) -> None:
    name, make, more, label, task, outputs, expected = CASES[case]
    file = make(tmp_path / name)
    job = wanted(tmp_path, file, label_column=label, **more)
    card, content = unpublished(job, plan())
    version_dir = publish(tmp_path / "models", replace_version(card), content)
    model = LocalModel(version_dir)
    assert (model.card.task, model.card.outputs) == (task, outputs)
    assert (model.card.rows, model.card.trained_from_ms) == (600, 1_000)
    assert model.card.features == FEATURES
    assert model.card.feature_types[:2] == ["Int64", "Float64"]
    assert set(model.card.definitions) == set(FEATURES) == set(model.card.histograms)
    assert sum(model.card.score.counts) == 600

    matrix, _ = kinds.data(2_000, seed=9)
    scores = model.predict(matrix)
    assert scores.dtype == np.float32
    assert scores.shape == ((2_000, 3) if task == "multiclass" else (2_000,))
    np.testing.assert_allclose(
        scores, np.reshape(direct(file, matrix), scores.shape), rtol=1e-6, atol=1e-6
    )
    assert check_golden(model.card, model.predict, "this process") == 0.0
    metrics = model.card.metrics
    if "onnx" not in case:  # whose weights are drawn, not trained
        assert metrics.get("training_auc", 1.0) > 0.8
        assert metrics.get("training_accuracy", 1.0) > 0.6
        assert metrics.get("training_rmse", 0.0) < 0.8
    assert metrics

    native = config(native_repository(tmp_path / "models") / "risk")
    assert list(native.input[0].dims) == [5]
    assert list(native.output[0].dims) == [outputs]
    assert parameters(native).items() >= expected.items()
    assert native.backend == ("onnxruntime" if "onnx" in case else "fil")
    assert native.model_warmup[0].inputs["input__0"].dims == [5]
    if task == "multiclass":
        assert model.card.classes == ["0", "1", "2"]
        with pytest.raises(ConfigurationError, match=r"has no default_class: set .* of 0, 1, 2"):
            check_routable(model.card, route(), "risky")
        with pytest.raises(ConfigurationError, match="has default_class 'x'"):
            check_routable(model.card, route("x"), "risky")
        check_routable(model.card, route("1"), "risky")
        labelled = replace(route("1"), labels="outcomes", label_field="class")
        with pytest.raises(ConfigurationError, match=r"--set metrics=\[\]"):
            check_judgeable(model.card, labelled, ("auc",))
        check_judgeable(model.card, labelled, ())
        check_judgeable(model.card, route("1"), ("auc",))
        renamed = msgspec.structs.replace(model.card, classes=["a", "b", "c"])
        with pytest.raises(ConfigurationError, match=r"tells the classes a, b, c apart.*0, 1, 2"):
            check_alike(model.card, renamed)
    else:
        with pytest.raises(ConfigurationError, match="one score and no classes"):
            check_routable(model.card, route("1"), "risky")
        check_routable(model.card, route(), "risky")


def route(default_class: str | None = None) -> Route:
    return Route("requests", "risk", "predictions", default_class=default_class)


def replace_version(card: Any, version: int = 1) -> Any:
    import msgspec

    return msgspec.structs.replace(card, version=version)


def test_what_triton_of_nvidia_is_asked_for(tmp_path: Path) -> None:
    file = kinds.onnx_file(tmp_path / "m.onnx")
    job = wanted(tmp_path, file, task="regression", instances="gpu", tensorrt=True)
    card, content = unpublished(job, plan())
    publish(tmp_path / "models", replace_version(card), content)
    native = config(native_repository(tmp_path / "models") / "risk")
    assert native.default_model_filename == "model.onnx"
    assert native.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    (accelerator,) = native.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "FP32"
    with pytest.raises(ConfigurationError, match="--tensorrt is for ONNX models on a GPU"):
        unpublished(replace(job, instances="cpu"), plan())


def test_versions_that_nvidias_backends_cannot_serve_together_wait(tmp_path: Path) -> None:
    repository = tmp_path / "models"
    boosted = unpublished(
        wanted(tmp_path, kinds.xgboost_file(tmp_path / "m.ubj", "binary:logistic")), plan()
    )
    other = unpublished(wanted(tmp_path, forest(tmp_path / "m.joblib")), plan())
    for number, (card, content) in enumerate([boosted, other, boosted], 1):
        publish(repository, replace_version(card, number), content)
    assert list(config(repository / "risk").version_policy.specific.versions) == [1, 2, 3]
    native = config(native_repository(repository) / "risk")
    assert list(native.version_policy.specific.versions) == [1, 3]
    assert alike([other[0], boosted[0]]) == [other[0]]


def refused(folder: Path, file: Path, match: str, features: Any = None, **more: Any) -> None:
    with pytest.raises(ConfigurationError, match=match):
        unpublished(wanted(folder, file, features, **more), plan())


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    file = kinds.xgboost_file(tmp_path / "m.ubj", "binary:logistic")
    refused(tmp_path, file, "takes 5 columns, and 4 features are given", FEATURES[:4])
    refused(tmp_path, file, "cards:other is missing", ["cards:other", *FEATURES[1:]])
    typed = dict.fromkeys(FEATURES, "Float64")
    refused(tmp_path, file, "cards:count_1m was Float64 and is Int64", typed)
    refused(tmp_path, file, "name one of them twice", [FEATURES[0], *FEATURES[:4]])
    refused(tmp_path, file, "is a binary model, and --task is regression", task="regression")
    refused(tmp_path, file, "have no column answer", label_column="answer")
    (tmp_path / "x.csv").write_text("")
    refused(tmp_path, tmp_path / "x.csv", r"ends with none of \.ubj")
    for ending in ("ubj", "txt", "joblib", "onnx"):
        (tmp_path / f"x.{ending}").write_bytes(b"nonsense")
        refused(tmp_path, tmp_path / f"x.{ending}", f"x.{ending} cannot be read")
    ranked = kinds.xgboost_file(tmp_path / "r.ubj", "multi:softmax")
    refused(tmp_path, ranked, "objective multi:softmax, whose answers are neither")
    line = kinds.scikit_learn_file(tmp_path / "l.joblib", Imputed())
    refused(tmp_path, line, "trees of scikit-learn can be served only")


class Imputed(LogisticRegression):
    def fit(self, matrix: Any, classes: Any) -> Any:
        return super().fit(np.nan_to_num(matrix), classes)


def test_columns_in_another_order_are_noticed(tmp_path: Path) -> None:
    import xgboost

    matrix, classes = kinds.data()
    named = [name.replace(":", "__") for name in FEATURES]
    data = xgboost.DMatrix(matrix, classes > 0, feature_names=[named[1], named[0], *named[2:]])
    xgboost.train({"objective": "binary:logistic"}, data, 2).save_model(tmp_path / "m.ubj")
    refused(tmp_path, tmp_path / "m.ubj", "Column 1 of .* is cards__sum_1m, and the features given")


def test_onnx_graphs_that_cannot_be_served(tmp_path: Path) -> None:
    import onnx

    silent = kinds.onnx_file(tmp_path / "silent.onnx")
    refused(tmp_path, silent, "add --task binary")
    two = kinds.onnx_file(tmp_path / "two.onnx", answers=2)
    refused(tmp_path, two, "answers with 2 values, not with one", task="regression")
    model = onnx.load(silent)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, tmp_path / "one.onnx")
    refused(tmp_path, tmp_path / "one.onnx", "takes 1 rows at a time", task="binary")
    # Without its first two nodes it does nothing about what is missing.
    model = onnx.load(silent)
    del model.graph.node[:2]
    model.graph.node[0].input[0] = "x"
    onnx.save(model, tmp_path / "nan.onnx")
    refused(tmp_path, tmp_path / "nan.onnx", "golden vectors with NaN", task="binary")


def test_a_regressor_of_scikit_learn(tmp_path: Path) -> None:
    matrix, classes = kinds.data()
    full = np.nan_to_num(matrix)
    estimator = GradientBoostingRegressor(n_estimators=8, random_state=0).fit(full, classes)
    import joblib

    joblib.dump(estimator, tmp_path / "m.pkl")
    card, content = unpublished(wanted(tmp_path, tmp_path / "m.pkl", label_column="class"), plan())
    model = LocalModel(publish(tmp_path / "models", replace_version(card), content))
    assert card.task == "regression"
    assert card.metrics["training_rmse"] < 1
    np.testing.assert_allclose(model.predict(full), estimator.predict(full), rtol=1e-6)
