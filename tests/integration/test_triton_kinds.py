"""Every kind of model on a real Triton, versions of one model side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier
from support import kinds
from support.models import small_model

from streamsvc.models.foreign import read_model
from streamsvc.models.golden import check_golden, choose_golden
from streamsvc.models.local_model import LocalModel
from streamsvc.models.triton_control import TritonControl, TritonRefusedError
from streamsvc.models.triton_repository import publish


def test_versions_of_every_kind_and_width_answer_as_in_this_process(
    triton: Any, tmp_path: Path
) -> None:
    name = triton.unique("model")
    forest = RandomForestClassifier(8, max_depth=5, random_state=0)
    files = [
        kinds.xgboost_file(tmp_path / "m.ubj", "multi:softprob"),
        kinds.lightgbm_file(tmp_path / "m.txt", "regression", features=7),
        kinds.scikit_learn_file(tmp_path / "m.joblib", forest),
        kinds.onnx_file(tmp_path / "m.onnx", features=4),
    ]
    models = []
    for number, file in enumerate(files, 1):
        found = read_model(file)
        card = msgspec.structs.replace(
            small_model().card,
            model=name,
            version=number,
            kind=found.kind,
            task=found.task or "binary",
            outputs=found.outputs,
            features=[f"v:f{i}" for i in range(found.n_features)],
        )
        matrix, _ = kinds.data(2_000, found.n_features)
        version_dir = publish(
            triton.model_repository, with_golden(card, found, matrix), found.content
        )
        models.append((LocalModel(version_dir), matrix))
    with TritonControl(triton.settings) as control:
        control.load(name)
        for model, matrix in models:
            predict = control.predictor(name, model.card.version)
            assert check_golden(model.card, predict, "Triton") <= 1e-6
            wanted = model.predict(matrix)
            np.testing.assert_allclose(predict(matrix), wanted, rtol=1e-6, atol=1e-6)
        with pytest.raises(TritonRefusedError, match="takes 4 features, not 5"):
            control.predictor(name, 4)(models[0][1])
        control.unload(name)


def with_golden(card: Any, found: Any, matrix: Any) -> Any:
    import tempfile

    from streamsvc.models.local_model import open_version
    from streamsvc.models.runtimes import MODEL_FILES

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / MODEL_FILES[found.kind]).write_bytes(found.content)
        golden = choose_golden(matrix, open_version(card, Path(folder)))
    return msgspec.structs.replace(card, golden=golden)


def test_a_damaged_file_is_not_served(triton: Any) -> None:
    name = triton.unique("model")
    model = small_model(5)
    version_dir = publish(triton.model_repository, model.version(1, name), model.booster)
    path = version_dir / "xgboost.ubj"
    path.write_bytes(path.read_bytes() + b" ")
    with TritonControl(triton.settings) as control:
        with pytest.raises(TritonRefusedError, match="is not the file that was published"):
            control.load(name)
        assert not control.is_ready(name, 1)
