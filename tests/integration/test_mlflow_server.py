"""The registry on a server of MLflow's, as a team has it: by commands, in front of a database."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.models import small_model
from typer.testing import CliRunner

from streamsvc.cli.main import app
from streamsvc.errors import ConfigurationError
from streamsvc.models.entering import enter
from streamsvc.models.registry import Registry
from streamsvc.models.triton_repository import publish
from streamsvc.settings import Settings

PATIENCE_S = 180
SETTINGS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of `mlflow server`, which keeps everything in a directory of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    log = folder / "server.log"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", "0"]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}"]
    command += ["--artifacts-destination", str(folder / "files")]
    with log.open("w") as out:
        process = subprocess.Popen(
            command, cwd=folder, stdout=out, stderr=out, env=os.environ | SETTINGS
        )
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text())):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield found[1]
    finally:
        process.terminate()
        process.wait(30)


def put(registry: Registry, repository: Path, seed: int) -> tuple[int, str | None]:
    model = small_model(seed, "risk")
    card = msgspec.structs.replace(model.card, definitions={"view:a": "1"})
    entered, _, alias = enter(
        card, repository, registry, lambda numbered: publish(repository, numbered, model.booster)
    )
    assert registry.card("risk", entered.version) == entered
    return entered.version, alias


def test_versions_are_registered_promoted_listed_and_deleted_on_a_server(
    server: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("STREAMSVC_MLFLOW_TRACKING_URI", server)
    monkeypatch.setenv("STREAMSVC_MODEL_SERVER", "in-process")
    repository = tmp_path / ".streamsvc" / "models"
    registry = Registry.open(Settings(mlflow_tracking_uri=server), tmp_path)
    assert [put(registry, repository, seed) for seed in (1, 2)] == [
        (1, "champion"),
        (2, "challenger"),
    ]
    registry.set_alias("risk", "champion", 2)
    registry.drop_alias("risk", "challenger")
    assert capfd.readouterr() == ("", ""), "a command's own output is a document"

    def streamsvc(*arguments: str) -> str:
        done = CliRunner().invoke(app, ["-c", str(tmp_path), *arguments])
        assert done.exit_code == 0, done.output
        return done.stdout

    def listed() -> list[tuple[int, list[str], bool, float]]:
        found = json.loads(streamsvc("models", "list", "--json"))
        return [(v["version"], v["aliases"], v["on_disk"], v["metrics"]["auc"]) for v in found]

    assert listed() == [(1, [], True, 0.9), (2, ["champion"], True, 0.9)]
    streamsvc("models", "delete", "risk", "1")
    assert listed() == [(2, ["champion"], True, 0.9)]
    assert put(registry, repository, 3) == (3, "challenger")
    with pytest.raises(ConfigurationError, match="has no version 'best' in the registry"):
        registry.resolve("risk", "best")
    assert not (tmp_path / ".streamsvc" / "mlflow").exists()
