"""Where boosting runs, on whatever machine this is."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xgboost

from streamsvc.errors import ConfigurationError
from streamsvc.models import device
from streamsvc.models.booster import fit
from streamsvc.models.device import chosen_device, gpus


def driver(devices: int, init: int = 0) -> Any:
    """A CUDA driver that shows so many GPUs."""

    def count(into: Any) -> int:
        into._obj.value = devices
        return 0

    return lambda _: SimpleNamespace(cuInit=lambda _: init, cuDeviceGetCount=count)


def missing(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.mark.parametrize(
    ("found", "expected"),
    [(missing, 0), (driver(0), 0), (driver(2), 2), (driver(2, init=100), 0)],
)
def test_gpus_are_those_that_the_driver_shows(
    monkeypatch: pytest.MonkeyPatch, found: Any, expected: int
) -> None:
    monkeypatch.setattr(ctypes, "CDLL", found)
    assert gpus() == expected


def test_a_gpu_is_used_if_there_is_one_and_xgboost_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "gpus", lambda: 1)
    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": True})
    assert [chosen_device(d) for d in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(xgboost, "build_info", lambda: {"USE_CUDA": False})
    assert chosen_device("auto") == "cpu"
    with pytest.raises(ConfigurationError, match="built without CUDA"):
        chosen_device("cuda")


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert [chosen_device(d) for d in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(ConfigurationError, match="--device cuda: "):
        chosen_device("cuda")


@pytest.mark.skipif(chosen_device("auto") == "cpu", reason="there is no GPU here")
def test_a_booster_of_the_gpu_is_as_good() -> None:
    rng = np.random.default_rng(3)
    matrix = rng.normal(size=(20_000, 5)).astype(np.float32)
    labels = matrix[:, 0] + rng.normal(size=len(matrix)) > 0
    parts = slice(0, 15_000), slice(15_000, None)
    train, validation = ((matrix[part], labels[part]) for part in parts)
    scores = {}
    for where in ("cpu", "cuda"):
        fitted = fit(train, validation, list("abcde"), seed=1, threads=2, device=where)  # type: ignore[arg-type]
        assert fitted.where == where
        scores[where] = fitted.predict(matrix[15_000:])
    assert np.abs(scores["cuda"] - scores["cpu"]).mean() < 0.02
