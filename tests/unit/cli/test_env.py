from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streamsvc.cli.main import app
from streamsvc.settings import Settings

ENDPOINTS = {
    "kafka_bootstrap_servers": "127.0.0.1:1",
    "redis_url": "redis://user:pass word@127.0.0.1:2/0",
    "triton_grpc_url": "127.0.0.1:3",
    "triton_http_url": "127.0.0.1:4",
}


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in (*ENDPOINTS, "model_server"):
        monkeypatch.delenv(f"STREAMSVC_{name.upper()}", raising=False)
    (tmp_path / ".streamsvc").mkdir()
    (tmp_path / ".streamsvc" / "endpoints.json").write_text(json.dumps(ENDPOINTS))
    return tmp_path


def run(repo: Path, *arguments: str) -> str:
    result = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["-c", str(repo), "env", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_json_holds_exactly_the_addresses(repo: Path) -> None:
    assert json.loads(run(repo, "--json")) == ENDPOINTS


def test_exports_survive_a_shell(repo: Path) -> None:
    script = run(repo) + 'printf "%s" "$STREAMSVC_REDIS_URL"'
    told = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout == ENDPOINTS["redis_url"]


def test_exports_say_when_models_run_in_the_worker(repo: Path) -> None:
    assert "MODEL_SERVER" not in run(repo)
    (repo / "streamsvc.toml").write_text('model_server = "in-process"\n')
    assert "export STREAMSVC_MODEL_SERVER=in-process" in run(repo)


def test_all_lists_every_setting_with_its_meaning_and_no_secret(repo: Path) -> None:
    (repo / "streamsvc.toml").write_text(
        'kafka_sasl_mechanism = "PLAIN"\nkafka_sasl_username = "me"\n'
        'kafka_sasl_password = "hunter2"\n'
    )
    shown = run(repo, "--all")
    for name in Settings.model_fields:
        assert f"STREAMSVC_{name.upper()}" in shown
    assert "Milliseconds between heartbeats" in shown
    assert "hunter2" not in shown
    assert "pass word" not in shown
    assert "hunter2" not in run(repo, "--all", "--json")
