"""Wanted versions against those of a real Triton: loaded, unloaded, and found again."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from support.models import SmallModel, small_model

from streamsvc.models.reconciler import Change, Reconciler
from streamsvc.models.triton_control import TritonControl
from streamsvc.models.triton_repository import configured_versions, publish


def processes_of(name: str, version: int) -> frozenset[int]:
    """Those in which Triton runs a version."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"/{name}/{version}/model.py".encode() in (process / "cmdline").read_bytes():
                found.add(int(process.name))
    return frozenset(found)


def memory_of(name: str, version: int) -> int:
    """Resident bytes of these processes; 0 without any."""
    total = 0
    for process in processes_of(name, version):
        with suppress(OSError):
            total += int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096
    return total


def test_versions_come_and_go_as_they_are_wanted(triton: Any) -> None:
    name = triton.unique("model")
    models = {number: small_model(number, name) for number in (1, 2, 3)}
    for number, model in models.items():
        publish(triton.model_repository, model.version(number, name), model.booster)
    with TritonControl(triton.settings) as control:
        reconciler = Reconciler(control, triton.model_repository)
        assert reconciler.reconcile({name: [1, 2]}) == [
            Change(name, 1, "loaded"),
            Change(name, 2, "loaded"),
        ]
        assert control.ready_versions(name) == [1, 2]
        assert reconciler.reconcile({name: [1, 2]}) == []
        assert memory_of(name, 1) > 10_000_000

        # 1 is unloaded while 2 is asked without a pause: nobody is refused, and its memory is free.
        with asked_all_the_time(triton, models[2], name, 2) as answers:
            more_than(0, answers)
            assert reconciler.reconcile({name: [2, 3]}) == [
                Change(name, 1, "unloaded"),
                Change(name, 3, "loaded"),
            ]
            more_than(answers() + 10, answers)
        assert control.ready_versions(name) == [2, 3]
        # Its process ends a moment after the server has said that it is done.
        deadline = time.monotonic() + 60
        while memory_of(name, 1):
            assert time.monotonic() < deadline
        assert memory_of(name, 2) > 10_000_000

        # What a server that was restarted does not know any more.
        control.unload(name)
        assert [c.version for c in reconciler.reconcile({name: [2, 3]})] == [2, 3]

        # One that is damaged is refused, once; the others serve.
        path = triton.model_repository / name / "1" / "xgboost.ubj"
        path.write_bytes(path.read_bytes() + b" ")
        (refused,) = reconciler.reconcile({name: [1, 2, 3]})
        assert (refused.version, refused.action) == (1, "refused")
        assert "is damaged" in refused.why
        assert control.ready_versions(name) == [2, 3]
        assert reconciler.reconcile({name: [1, 2, 3]}) == []

        # What nobody wants stays a while: a rollout that wants it may be about to be written.
        assert reconciler.reconcile({name: [2, 3]}) == []
        now = [0.0]
        patient = Reconciler(control, triton.model_repository, 30, lambda: now[0])
        for instant, wanted in ((0, [2]), (20, [2, 3]), (40, [2]), (69, [2])):
            now[0] = instant
            assert patient.reconcile({name: wanted}) == []
        now[0] = 70
        assert patient.reconcile({name: [2]}) == [Change(name, 3, "unloaded")]

        assert {c.action for c in reconciler.reconcile({name: []})} == {"unloaded"}
        assert control.ready_versions(name) == []


def test_a_version_that_computes_something_else_is_refused(triton: Any) -> None:
    name = triton.unique("model")
    model, other = small_model(6, name), small_model(7, name)
    publish(triton.model_repository, model.version(1, name), other.booster)
    with TritonControl(triton.settings) as control:
        (refused,) = Reconciler(control, triton.model_repository).reconcile({name: [1]})
        assert refused.action == "refused"
        assert "does not compute" in refused.why
        control.unload(name)


def test_a_version_that_cannot_start_keeps_no_other_from_serving(triton: Any) -> None:
    name = triton.unique("model")
    for number in (1, 2, 3):
        model = small_model(number, name)
        publish(triton.model_repository, model.version(number, name), model.booster)
    with (triton.model_repository / name / "2" / "model.py").open("a") as code:
        code.write("\nraise RuntimeError('this one never starts')\n")
    with TritonControl(triton.settings) as control:
        changes = Reconciler(control, triton.model_repository).reconcile({name: [1, 2, 3]})
        assert [(c.version, c.action) for c in changes] == [
            (1, "loaded"),
            (2, "refused"),
            (3, "loaded"),
        ]
        assert "this one never starts" in changes[1].why
        # Nor after a restart, when Triton loads what is configured, all of it or nothing.
        assert configured_versions(triton.model_repository / name) == [1, 3]
        control.unload(name)


def more_than(few: int, answers: Callable[[], int]) -> None:
    """Returns once there are; how many come while a version is loaded is the machine's affair."""
    deadline = time.monotonic() + 60
    while answers() <= few:
        assert time.monotonic() < deadline, f"{answers()} answers"
        time.sleep(0.01)


class asked_all_the_time:  # noqa: N801
    """Asks one version in a thread of its own; leaving raises what a request raised."""

    def __init__(self, triton: Any, model: SmallModel, name: str, version: int) -> None:
        self._triton, self._model = triton, model
        self._name, self._version = name, version
        self._end = Event()
        self._pool = ThreadPoolExecutor(1)
        self._answers = 0

    def __enter__(self) -> Any:
        self._work = self._pool.submit(self._ask)
        return lambda: self._answers

    def __exit__(self, *exc: object) -> None:
        self._end.set()
        self._work.result(60)
        self._pool.shutdown()

    def _ask(self) -> None:
        wanted = np.array(self._model.card.golden.outputs)
        with TritonControl(self._triton.settings) as control:
            predict = control.predictor(self._name, self._version)
            while not self._end.is_set():
                np.testing.assert_allclose(
                    predict(self._model.card.golden.matrix()), wanted, atol=1e-6
                )
                self._answers += 1


@pytest.fixture(autouse=True)
def _needs_processes(triton: Any) -> None:
    if not triton.settings.triton_grpc_url.startswith("127.0.0.1"):
        pytest.skip("Triton's processes are on another machine")
