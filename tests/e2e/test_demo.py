"""`streamsvc demo` as a user runs it: one day, on real servers, from an empty directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from streamsvc.local import processes

TIMEOUT_S = 500


def environment(triton: Any) -> dict[str, str]:
    settings = triton.settings
    return {
        **{k: v for k, v in os.environ.items() if not k.startswith("STREAMSVC_")},
        "STREAMSVC_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "STREAMSVC_REDIS_URL": settings.redis_url.get_secret_value(),
        "STREAMSVC_TRITON_GRPC_URL": settings.triton_grpc_url,
        "STREAMSVC_TRITON_HTTP_URL": settings.triton_http_url,
        "STREAMSVC_MODEL_REPOSITORY": str(triton.model_repository),
    }


def left_behind(repo: Path) -> list[Any]:
    return processes.marked(f"{repo}/.streamsvc/demo")


@pytest.mark.timeout(TIMEOUT_S + 60)
def test_a_day_of_flights(triton: Any, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "streamsvc", "demo", "--days", "1", "--headless", "--json"],
        cwd=tmp_path,
        env=environment(triton),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    report = json.loads(done.stdout)  # and nothing else on standard output
    repo = tmp_path / "flights"
    assert report == json.loads((repo / "demo-report.json").read_text())
    assert left_behind(repo) == []

    assert report["days"] == 1
    assert report["requests"] == report["predictions"] == 968
    assert report["missing"] == report["dead_letters"] == report["fallbacks"] == 0
    assert report["triton_inferences"] >= 968
    assert report["vectors_identical_share"] == 1
    assert report["vectors_from_future"] == 0
    assert abs(report["auc_streaming"] - report["auc_offline"]) <= 0.001
    # A day is few flights; that the model learned anything at all is what can be asked of it.
    assert 0.6 < report["auc_streaming"] < 0.95
    assert 0 < report["latency_ms"]["p50"] <= report["latency_ms"]["p99"]
    assert 0 < report["freshness_ms"]["p50"] <= report["freshness_ms"]["p99"]
    for words in ("[7/8] Replay of 1 day", "Try next:", "predictions tail late_arrival"):
        assert words in done.stderr
    assert "rdkafka" not in done.stderr  # what the client says to itself

    # An impatient user: everything is there already, so the workers are soon up.
    again = subprocess.Popen(
        [sys.executable, "-m", "streamsvc", "-c", "flights", "demo", "--headless"],
        cwd=tmp_path,
        env=environment(triton),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert again.stdout is not None
    said = []
    try:
        for line in again.stdout:
            said.append(line)
            if line.startswith("[5/8]"):
                assert left_behind(repo)
                again.send_signal(signal.SIGTERM)
                break
        said += again.stdout.readlines()
        assert again.wait(300) == 130, "".join(said)
    finally:
        again.kill()
        again.wait()
    assert left_behind(repo) == []
