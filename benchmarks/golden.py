"""Whether Triton computes what the scoring worker would: 100,000 rows of every kind of model.

    streamsvc up
    python ../benchmarks/golden.py [--rows N] [--network FILE.onnx]

Run in a Feast repo whose local stack is up. Each kind is trained by its own library, read as
`streamsvc models register` reads it, published, and loaded; then the same rows are scored by the
library, in this process, and by Triton's Python backend over gRPC. It fails where any two differ by
more than 1e-6 (of answers above 1, of that share). Trees are scored by Treelite's reference
implementation as well: it reads the very file that the FIL backend of NVIDIA's container reads, by
the same library, so it is the nearest that a machine without that container can come to it. It adds
a float32 for each tree in an order of its own, so it is allowed 1e-5.

`--network` takes an ONNX file that was exported elsewhere, by PyTorch for one: five inputs, and a
probability as its answer.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from machine import machine

from streamsvc.models.artifact import Golden, ModelCard, served_versions
from streamsvc.models.foreign import ForeignModel, read_model
from streamsvc.models.golden import check_golden, choose_golden
from streamsvc.models.histogram import histogram
from streamsvc.models.local_model import LocalModel, open_version
from streamsvc.models.runtimes import MODEL_FILES
from streamsvc.models.triton_control import TritonControl
from streamsvc.models.triton_repository import publish, remove, serve
from streamsvc.settings import load_settings

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support import kinds

MODEL = "golden-benchmark"
TOLERANCE = 1e-6
TREELITE_TOLERANCE = 1e-5
ROUNDS = 100


def files(folder: Path, network: Path | None) -> dict[str, Path]:
    from sklearn.ensemble import (
        GradientBoostingRegressor,
        HistGradientBoostingClassifier,
        RandomForestClassifier,
    )

    forest = RandomForestClassifier(100, max_depth=8, random_state=0)
    matrix, classes = kinds.data()
    import joblib

    joblib.dump(
        GradientBoostingRegressor(random_state=0).fit(np.nan_to_num(matrix), classes),
        folder / "gbr.joblib",
    )
    found = {
        "XGBoost, binary": kinds.xgboost_file(folder / "b.ubj", "binary:logistic", rounds=ROUNDS),
        "XGBoost, three classes": kinds.xgboost_file(
            folder / "m.ubj", "multi:softprob", rounds=ROUNDS
        ),
        "XGBoost, regression": kinds.xgboost_file(
            folder / "r.ubj", "reg:squarederror", rounds=ROUNDS
        ),
        "LightGBM, binary": kinds.lightgbm_file(folder / "b.txt", "binary", rounds=ROUNDS),
        "LightGBM, three classes": kinds.lightgbm_file(
            folder / "m.txt", "multiclass", rounds=ROUNDS
        ),
        "LightGBM, regression": kinds.lightgbm_file(folder / "r.txt", "regression", rounds=ROUNDS),
        "scikit-learn, forest": kinds.scikit_learn_file(folder / "f.joblib", forest),
        "scikit-learn, boosted histograms": kinds.scikit_learn_file(
            folder / "h.joblib", HistGradientBoostingClassifier(random_state=0), binary=False
        ),
        "scikit-learn, boosted regression": folder / "gbr.joblib",
        "ONNX, network of 64": kinds.onnx_file(folder / "n.onnx", hidden=64),
        "ONNX, three classes": kinds.onnx_file(folder / "n3.onnx", hidden=64, answers=3),
    }
    if network is not None:
        found[f"ONNX, {network.name}"] = network
    return found


def by_library(path: Path) -> Callable[[Any], Any]:
    """The answers of the library that wrote the file, without any code of ours."""
    if path.suffix == ".ubj":
        import xgboost

        booster = xgboost.Booster(model_file=path)
        return lambda matrix: booster.predict(xgboost.DMatrix(matrix))
    if path.suffix == ".txt":
        import lightgbm

        return lightgbm.Booster(model_file=path).predict
    if path.suffix == ".joblib":
        import joblib

        estimator = joblib.load(path)
        if not hasattr(estimator, "predict_proba"):
            return estimator.predict
        if len(estimator.classes_) == 2:
            return lambda matrix: estimator.predict_proba(matrix)[:, 1]
        return estimator.predict_proba
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda matrix: session.run(None, {name: matrix})[0]


def by_treelite(version_dir: Path, kind: str) -> Callable[[Any], Any] | None:
    """What FIL's own way of reading the file makes of it."""
    import treelite

    path = version_dir / MODEL_FILES[kind]
    if kind == "xgboost":
        model = treelite.frontend.load_xgboost_model(path, format_choice="ubjson")
    elif kind == "lightgbm":
        model = treelite.frontend.load_lightgbm_model(path)
    elif kind == "treelite":
        model = treelite.Model.deserialize(path)
    else:
        return None
    return lambda matrix: treelite.gtil.predict(model, matrix.astype(model.input_type))


def difference(found: Any, wanted: Any) -> float:
    """Greatest difference, of answers above 1 as a share; a binary model's last column counts."""
    wanted = np.asarray(wanted, np.float64).reshape(len(wanted), -1)
    found = np.asarray(found, np.float64).reshape(len(found), -1)[:, -wanted.shape[1] :]
    return float(np.max(np.abs(found - wanted) / np.maximum(np.abs(wanted), 1)))


def card_of(found: ForeignModel, version: int) -> ModelCard:
    nothing = histogram(np.empty(0, np.float32))
    return ModelCard(
        *(MODEL, version, "none", [f"v:f{i}" for i in range(found.n_features)]),
        *(0, 0, 0, {}, {}, nothing, Golden([], [])),
        kind=found.kind,
        task=found.task or "binary",
        outputs=found.outputs,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--network", type=Path, help="An ONNX file of five inputs.")
    arguments = parser.parse_args()
    settings = load_settings(Path())
    repository = settings.model_repository.absolute()
    for version in served_versions(repository / MODEL):
        remove(repository, MODEL, version)
    matrix, _ = kinds.data(arguments.rows, seed=11)
    full = np.nan_to_num(matrix)
    print(machine("xgboost", "lightgbm", "scikit-learn", "treelite", "onnxruntime", "numpy"))
    print(f"{arguments.rows:,} rows of {kinds.FEATURES} features, a tenth of the values missing")
    print(f"{'':34}{'library':>10}{'Triton':>10}{'Treelite':>10}   greatest difference to the")
    print(f"{'model':34}{'':>30}   worker's own; Triton's time for all rows")
    worst = worst_of_treelite = 0.0
    with tempfile.TemporaryDirectory() as place, TritonControl(settings) as triton:
        models = files(Path(place), arguments.network)
        for version, (name, path) in enumerate(models.items(), 1):
            found = read_model(path)
            card = card_of(found, version)
            folder = Path(place) / f"version-{version}"
            folder.mkdir()
            (folder / MODEL_FILES[found.kind]).write_bytes(found.content)
            # A regressor of scikit-learn that was fitted without gaps takes none.
            rows = full if name == "scikit-learn, boosted regression" else matrix
            golden = choose_golden(rows, open_version(card, folder))
            card = msgspec.structs.replace(card, golden=golden)
            version_dir = publish(repository, card, found.content)
            triton.load(MODEL)
            predict = triton.predictor(MODEL, version)
            check_golden(card, predict, "Triton")
            mine = LocalModel(version_dir).predict(rows)
            began = time.perf_counter()
            theirs = np.concatenate(
                [predict(rows[i : i + 8192]) for i in range(0, len(rows), 8192)]
            )
            took = time.perf_counter() - began
            reference = by_treelite(version_dir, found.kind)
            shares = [difference(by_library(path)(rows), mine), difference(theirs, mine)]
            worst = max(worst, *shares)
            if reference is not None:
                shares.append(difference(reference(rows), mine))
                worst_of_treelite = max(worst_of_treelite, shares[-1])
            shown = "".join(f"{share:10.1e}" for share in shares)
            print(f"{name:34}{shown:30}   {took:.2f} s", flush=True)
            # One at a time, as a version that is replaced would be.
            serve(repository, MODEL, [])
            triton.unload(MODEL)
            remove(repository, MODEL, version)
    print(f"Worst: {worst:.1e}, at most {TOLERANCE:g}; Treelite {worst_of_treelite:.1e}.")
    if worst > TOLERANCE or worst_of_treelite > TREELITE_TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    main()
