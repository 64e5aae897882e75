"""A worker that is told to stop before it has begun."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import pytest
from support.repo import RunningRepo

PATIENCE_S = 300


@pytest.mark.parametrize(
    ("kind", "number"), [("features", signal.SIGTERM), ("scoring", signal.SIGINT)]
)
def test_a_signal_among_the_imports_ends_it_with_0(tmp_path, kind, number):
    worker = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "streamsvc", "worker", kind],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        # Faust, numba and more come after numpy, and take a while.
        assert any(line.rstrip().endswith(" numpy") for line in worker.stderr)
        worker.send_signal(number)
        said = worker.stderr.read()
        assert worker.wait(PATIENCE_S) == 0, said[-2000:]
        assert "Traceback" not in said
    finally:
        worker.kill()
        worker.wait()


def test_a_signal_while_kafka_is_silent_ends_it_with_0(stack, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(PATIENCE_S)
        broker = f"127.0.0.1:{silent.getsockname()[1]}"
        with RunningRepo(
            stack, tmp_path, "payments", STREAMSVC_KAFKA_BOOTSTRAP_SERVERS=broker
        ) as repo:
            repo.apply()
            repo.start_worker("w")
            connection, _ = silent.accept()  # it has asked, and will get no answer
            with connection:
                assert repo.stop_worker("w") == 0, repo.log_of("w")
