from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import structlog
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from streamsvc.errors import CheckFailedError, ConfigurationError
from streamsvc.models.artifact import latest_version, load_card, served_versions
from streamsvc.models.golden import check_golden
from streamsvc.models.local_model import LocalModel
from streamsvc.models.triton_repository import (
    configured_versions,
    configuring,
    native_repository,
    next_version,
    publish,
    remove,
    serve,
)


def config(model_dir: Path) -> Any:
    text = (model_dir / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def parameters(parsed: Any) -> dict[str, str]:
    return {key: value.string_value for key, value in parsed.parameters.items()}


def test_a_version_is_written_in_both_forms(trained: Any, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    version_dir = publish(repository, trained.card, trained.booster)
    assert version_dir == repository / "late" / "1"
    names = {p.name for p in version_dir.iterdir()}
    assert names == {"model.json", "model.py", "runtimes.py", "xgboost.ubj"}
    native_dir = native_repository(repository) / "late"
    assert {p.name for p in (native_dir / "1").iterdir()} == {"model.json", "xgboost.ubj"}
    card = load_card(version_dir)
    assert card == load_card(native_dir / "1")
    assert msgspec.structs.replace(card, files={}) == trained.card


def test_what_is_served_is_what_the_configuration_says(trained: Any, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    for number in (1, 2, 3):
        publish(repository, trained.version(number), trained.booster)
    serve(repository, "late", [3, 1])
    assert configured_versions(repository / "late") == [1, 3]
    # A retired version stays retired when another one comes.
    publish(repository, trained.version(4), trained.booster)
    for place in (repository, native_repository(repository)):
        assert configured_versions(place / "late") == [1, 3, 4]
        assert list(config(place / "late").version_policy.specific.versions) == [1, 3, 4]
    remove(repository, "late", 2)
    assert served_versions(repository / "late") == [1, 3, 4]
    assert served_versions(native_repository(repository) / "late") == [1, 3, 4]
    serve(repository, "late", [])
    assert not (repository / "late" / "config.pbtxt").exists()
    with pytest.raises(ConfigurationError, match=r"2/model\.json is missing"):
        serve(repository, "late", [2])


def test_whoever_waits_for_another_one_to_load_says_so(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with configuring(tmp_path):
            order.append("second")

    def said(_logger: Any, _method: str, event: dict[str, Any]) -> dict[str, Any]:
        waits.set()
        assert event["event"] == "waits_for_model_repository"
        raise structlog.DropEvent

    before = structlog.get_config()["processors"]
    structlog.configure(processors=[said])
    try:
        with configuring(tmp_path):
            other = threading.Thread(target=second)
            other.start()
            assert waits.wait(30)
            order.append("first")
        other.join(30)
    finally:
        structlog.configure(processors=before)
    assert order == ["first", "second"]


def test_a_damaged_file_is_refused(trained: Any, tmp_path: Path) -> None:
    version_dir = publish(tmp_path / "models", trained.card, trained.booster)
    path = version_dir / "xgboost.ubj"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(ConfigurationError, match=r"xgboost\.ubj is damaged: its SHA-256 is"):
        LocalModel(version_dir)
    path.unlink()
    with pytest.raises(ConfigurationError, match=r"xgboost\.ubj cannot be read \(No such file"):
        LocalModel(version_dir)


def test_triton_can_read_both_configurations(trained: Any, tmp_path: Path) -> None:
    repository = tmp_path / "models"
    publish(repository, trained.card, trained.booster)
    publish(repository, trained.version(2), trained.booster)
    python = config(repository / "late")
    native = config(native_repository(repository) / "late")
    assert (python.backend, native.backend) == ("python", "fil")
    for parsed in (python, native):
        assert parsed.name == "late"
        assert parsed.max_batch_size == 32_768
        # Versions of one model may differ in their features where the Python backend serves them.
        widths = ([-1], [-1]) if parsed is python else ([3], [1])
        assert [(t.name, t.data_type, list(t.dims)) for t in parsed.input] == [
            ("input__0", model_config_pb2.TYPE_FP32, widths[0])
        ]
        assert [(t.name, t.data_type, list(t.dims)) for t in parsed.output] == [
            ("output__0", model_config_pb2.TYPE_FP32, widths[1])
        ]
        assert list(parsed.version_policy.specific.versions) == [1, 2]
        assert parsed.HasField("dynamic_batching")
        assert not parsed.response_cache.enable
    assert parameters(python) == {"nthread": "1"}
    assert parameters(native) == {
        "model_type": "xgboost_ubj",
        "is_classifier": "true",
        "predict_proba": "true",
        "threshold": "0.5",
        "layout": "depth_first",
        "chunk_size": "4",
    }


def test_versions_count_up_and_are_never_overwritten(trained: Any, tmp_path: Path) -> None:
    assert next_version(tmp_path, "late") == 1
    publish(tmp_path / "models", trained.version(9), trained.booster)
    assert next_version(tmp_path / "models", "late") == 10
    with pytest.raises(ConfigurationError, match="never overwritten"):
        publish(tmp_path / "models", trained.version(9), trained.booster)
    assert served_versions(tmp_path / "models" / "late") == [9]


@pytest.mark.parametrize("name", ["", "../evil", "a/b", ".hidden", 'a"b'])
def test_a_name_that_is_no_directory_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="name"):
        next_version(tmp_path, name)


def test_the_newest_version_is_the_greatest_number(trained: Any, tmp_path: Path) -> None:
    for version in (2, 10):
        publish(tmp_path / "models", trained.version(version), trained.booster)
    assert latest_version(tmp_path / "models" / "late").name == "10"
    with pytest.raises(ConfigurationError, match="streamsvc train"):
        latest_version(tmp_path / "models" / "unknown")


def test_a_damaged_card_says_which_file(trained: Any, tmp_path: Path) -> None:
    version_dir = publish(tmp_path / "models", trained.card, trained.booster)
    (version_dir / "model.json").write_text("{}")
    with pytest.raises(ConfigurationError, match=r"model\.json is not a model card"):
        load_card(version_dir)
    (version_dir / "model.json").unlink()
    with pytest.raises(ConfigurationError, match=r"model\.json is missing"):
        load_card(version_dir)


def test_the_local_model_answers_its_golden_vectors(trained: Any, tmp_path: Path) -> None:
    model = LocalModel(publish(tmp_path / "models", trained.card, trained.booster))
    assert check_golden(model.card, model.predict, "this process") == 0.0
    golden = model.card.golden.matrix()
    assert golden.shape == (64, 3)
    assert np.isnan(golden[-1]).all()
    assert np.isnan(golden).sum() > 3


def test_another_function_is_noticed(trained: Any) -> None:
    def shifted(matrix: Any) -> Any:
        return np.array(trained.card.golden.outputs, np.float32) + np.float32(1e-4)

    with pytest.raises(CheckFailedError, match="elsewhere does not compute late version 1"):
        check_golden(trained.card, shifted, "elsewhere")
    with pytest.raises(CheckFailedError, match="does not compute"):
        check_golden(trained.card, lambda m: np.full(len(m), np.nan, np.float32), "elsewhere")
    with pytest.raises(CheckFailedError, match="answered 1 scores"):
        check_golden(trained.card, lambda m: np.zeros(1, np.float32), "elsewhere")
