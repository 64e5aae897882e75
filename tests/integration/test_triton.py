"""Models on a real Triton: loaded, compared, counted, replaced, unloaded."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.models import small_model

from streamsvc.cli.context import CliContext
from streamsvc.cli.loading import load_into_triton
from streamsvc.errors import CheckFailedError, UnavailableError
from streamsvc.models.golden import check_golden
from streamsvc.models.triton_control import TritonControl, TritonRefusedError
from streamsvc.models.triton_repository import publish
from streamsvc.settings import Settings


def test_a_published_model_is_served_as_trained(triton: Any) -> None:
    name = triton.unique("model")
    first, second = small_model(1), small_model(2)
    repository: Path = triton.model_repository
    publish(repository, first.version(1, name), first.booster)
    with TritonControl(triton.settings) as control:
        assert control.is_live()
        assert not control.is_ready(name, 1)
        control.load(name)
        assert control.is_ready(name, 1)
        predict = control.predictor(name, 1)
        assert check_golden(first.card, predict, "Triton") <= 1e-6
        one = first.card.golden.matrix()[:1]
        assert predict(one).tolist() == pytest.approx(first.card.golden.outputs[:1], abs=1e-6)

        before = control.inference_count(name)
        large = np.tile(first.matrix, (40, 1))
        assert predict(large).shape == (20_000,)
        # Triton counts a moment after it has answered, the request before these among them.
        deadline = time.monotonic() + 30
        while control.inference_count(name) - before < 20_000:
            assert time.monotonic() < deadline, control.inference_count(name)

        # A second version is served beside the first, and each answers as itself.
        publish(repository, second.version(2, name), second.booster)
        assert not control.is_ready(name, 2)
        control.load(name)
        assert control.is_ready(name, 1)
        check_golden(first.card, control.predictor(name, 1), "Triton")
        check_golden(second.card, control.predictor(name, 2), "Triton")
        with pytest.raises(CheckFailedError, match="does not compute"):
            check_golden(first.card, control.predictor(name, 2), "Triton")

        control.unload(name)
        assert not control.is_ready(name, 1)
        with pytest.raises(TritonRefusedError, match=name):
            control.predictor(name, 1)(one)
        with pytest.raises(TritonRefusedError, match="nothing-here"):
            control.load("nothing-here")


def test_training_loads_what_it_published(triton: Any) -> None:
    name = triton.unique("model")
    model = small_model(3)
    publish(triton.model_repository, model.version(1, name), model.booster)
    context = CliContext(triton.repo)
    context.__dict__["settings"] = triton.settings
    loaded, note = load_into_triton(context, model.version(1, name))
    assert loaded
    assert "64 golden vectors agree" in note
    # A card of another model than the one that lies there is found out.
    with pytest.raises(CheckFailedError, match="does not compute"):
        load_into_triton(context, small_model(4).version(1, name))


def test_a_server_that_is_away_is_no_failure(tmp_path: Path) -> None:
    context = CliContext(tmp_path)
    context.__dict__["settings"] = Settings(triton_grpc_url="127.0.0.1:9")
    card = small_model().card
    loaded, note = load_into_triton(context, card)
    assert not loaded
    assert "is not there" in note
    context.__dict__["settings"] = Settings(model_server="in-process")
    assert not load_into_triton(context, card)[0]
    with TritonControl(Settings(triton_grpc_url="127.0.0.1:9")) as control:
        assert not control.is_live()
        with pytest.raises(UnavailableError, match="streamsvc up"):
            control.load("late")
