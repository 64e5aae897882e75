"""The local stack on real servers. Most tests use Valkey alone, which starts in a moment."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.local import ports, processes, start, triton_env
from streamsvc.local.kafka import Kafka
from streamsvc.local.paths import StackPaths
from streamsvc.local.report import Report
from streamsvc.local.stack import LocalStack, ServiceStatus
from streamsvc.local.state import StackState
from streamsvc.local.triton import Triton
from streamsvc.local.valkey import Valkey
from streamsvc.settings import load_settings


@pytest.fixture
def repo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repo whose stack is gone afterwards, whatever the test did."""
    for name in [name for name in os.environ if name.startswith("STREAMSVC_")]:
        monkeypatch.delenv(name)
    yield tmp_path
    for name in ("endpoints.json", "streamsvc.toml"):
        (tmp_path / name).unlink(missing_ok=True)
    LocalStack(tmp_path).down(volumes=True)
    assert processes.marked(str(StackPaths(tmp_path).root)) == []


@pytest.fixture
def needs(tmp_path: Path) -> Callable[[str], None]:
    """Skips the test (fails it in CI) if a server cannot run here."""

    def check(name: str) -> None:
        services = {
            "kafka": Kafka(tmp_path),
            "valkey": Valkey(tmp_path),
            "triton": Triton(tmp_path, tmp_path),
        }
        try:
            services[name].prepare(Report())
        except UnavailableError as error:
            if os.environ.get("CI", "").lower() in ("1", "true"):
                raise
            pytest.skip(str(error))

    return check


def of(found: list[ServiceStatus], name: str) -> ServiceStatus:
    return next(status for status in found if status.name == name)


def client(repo: Path) -> redis.Redis:
    return redis.Redis.from_url(load_settings(repo).redis_url.get_secret_value())


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def run_cli(repo: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "streamsvc", "-c", str(repo), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A test run that a shell put into the background ignores SIGINT, and so would its children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - no threads
    )


def test_up_twice_changes_nothing(repo: Path, needs: Callable[[str], None]) -> None:
    needs("valkey")
    first = of(LocalStack(repo).up(["valkey"]), "valkey")
    assert first.state == "running"
    assert client(repo).ping()
    assert LocalStack(repo).up(["valkey"]) == LocalStack(repo).status()
    assert of(LocalStack(repo).status(), "valkey") == first


def test_up_twice_at_the_same_time_starts_one(repo: Path, needs: Callable[[str], None]) -> None:
    needs("valkey")
    both = [run_cli(repo, "up", "valkey", "--json") for _ in range(2)]
    told = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], told
    assert len({json.loads(out)[1]["pid"] for out, _ in told}) == 1


def test_a_killed_server_is_shown_and_mended(repo: Path, needs: Callable[[str], None]) -> None:
    needs("valkey")
    before = of(LocalStack(repo).up(["valkey"]), "valkey")
    client(repo).set("key", "kept")
    client(repo).execute_command("WAITAOF", 1, 0, 5_000)
    kill(before.pid)
    # It does not answer before it is gone.
    while (shown := of(LocalStack(repo).status(), "valkey")).state != "killed":
        assert shown.state in ("running", "not answering")
    assert "streamsvc up" in str(shown.detail)
    after = of(LocalStack(repo).up(["valkey"]), "valkey")
    assert after.state == "running"
    assert after.pid != before.pid
    assert after.ports == before.ports
    assert client(repo).get("key") == b"kept"


def test_a_server_that_hangs_is_replaced(
    repo: Path, needs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("valkey")
    before = of(LocalStack(repo).up(["valkey"]), "valkey")
    os.kill(before.pid or 0, signal.SIGSTOP)
    assert of(LocalStack(repo).status(), "valkey").state == "not answering"
    monkeypatch.setattr(start, "_SILENCE_S", 0.0)
    monkeypatch.setattr(Valkey, "stop_s", 0.0)
    after = of(LocalStack(repo).up(["valkey"]), "valkey")
    assert after.state == "running"
    assert after.pid != before.pid


def test_data_and_ports_stay_until_they_are_removed(
    repo: Path, needs: Callable[[str], None]
) -> None:
    needs("valkey")
    before = of(LocalStack(repo).up(["valkey"]), "valkey")
    client(repo).set("key", "kept")
    assert LocalStack(repo).down() == ["valkey"]
    assert not (repo / ".streamsvc" / "endpoints.json").exists()
    assert LocalStack(repo).down() == []
    assert of(LocalStack(repo).up(["valkey"]), "valkey").ports == before.ports
    assert client(repo).get("key") == b"kept"
    LocalStack(repo).down(volumes=True)
    assert not (repo / ".streamsvc").exists()
    LocalStack(repo).up(["valkey"])
    assert client(repo).get("key") is None


def test_a_port_that_was_taken_meanwhile_is_given_up(
    repo: Path, needs: Callable[[str], None]
) -> None:
    needs("valkey")
    before = of(LocalStack(repo).up(["valkey"]), "valkey").ports["redis"]
    client(repo).set("key", "kept")
    LocalStack(repo).down()
    with socket.create_server((ports.HOST, before)):
        after = of(LocalStack(repo).up(["valkey"]), "valkey")
        assert after.ports["redis"] != before
        assert client(repo).get("key") == b"kept"


def test_a_port_taken_between_choice_and_bind_is_tried_elsewhere(
    repo: Path, needs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    needs("valkey")
    with socket.create_server((ports.HOST, 0)) as holder:
        taken = holder.getsockname()[1]
        choices = iter([taken])
        choose = ports.choose
        monkeypatch.setattr(ports, "choose", lambda *asked: next(choices, None) or choose(*asked))
        found = of(LocalStack(repo).up(["valkey"]), "valkey")
    assert found.state == "running"
    assert found.ports["redis"] != taken


def test_a_pid_that_belongs_to_another_process_now_is_left_alone(
    repo: Path, needs: Callable[[str], None]
) -> None:
    needs("valkey")
    before = of(LocalStack(repo).up(["valkey"]), "valkey")
    LocalStack(repo).down()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as stranger:
        found = processes.identify(stranger.pid)
        assert found is not None
        stale = replace(found, started_ticks=found.started_ticks - 1)
        StackState(StackPaths(repo)).started("valkey", start.Running(stale, before.ports))
        assert of(LocalStack(repo).status(), "valkey").state == "killed"
        assert of(LocalStack(repo).up(["valkey"]), "valkey").state == "running"
        LocalStack(repo).down()
        assert stranger.poll() is None
        stranger.communicate(b"\n")


def test_down_finds_servers_without_a_pid_file(repo: Path, needs: Callable[[str], None]) -> None:
    needs("valkey")
    LocalStack(repo).up(["valkey"])
    shutil.rmtree(repo / ".streamsvc" / "run")
    assert LocalStack(repo).down() == ["valkey"]
    assert processes.marked(str(StackPaths(repo).root)) == []


def test_a_server_that_cannot_start_is_one_message_with_its_log(
    repo: Path, needs: Callable[[str], None]
) -> None:
    needs("valkey")
    # A file where Valkey wants its directory of append-only files.
    data = repo / ".streamsvc" / "valkey" / "data"
    data.mkdir(parents=True)
    (data / "appendonlydir").write_text("")
    process = run_cli(repo, "up", "valkey")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 3
    assert "STREAMSVC_REDIS_URL" in said
    assert "appendonlydir" in said
    assert "Traceback" not in said
    assert processes.marked(str(StackPaths(repo).root)) == []


def test_interrupted_up_leaves_nothing_and_can_be_repeated(
    repo: Path, needs: Callable[[str], None]
) -> None:
    needs("valkey")
    needs("kafka")
    process = run_cli(repo, "up", "kafka", "valkey")
    mark = str(StackPaths(repo).root)
    while not processes.marked(f"{mark}/kafka"):
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=300)
    # Where the signal meets some of its code, Python ends itself by it: a shell says 130 of both.
    assert process.returncode in {130, -signal.SIGINT}, told
    assert processes.marked(mark) == []
    assert of(LocalStack(repo).up(["kafka"]), "kafka").state == "running"


def test_kafka_keeps_topics_through_a_kill_and_another_port_without_network(
    repo: Path, needs: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from confluent_kafka.admin import AdminClient, NewTopic

    needs("kafka")
    before = of(LocalStack(repo).up(["kafka"]), "kafka")
    admin = AdminClient({"bootstrap.servers": load_settings(repo).kafka_bootstrap_servers})
    admin.create_topics([NewTopic("kept", 3, 1)])["kept"].result(30)
    # A misspelt topic stays an error.
    assert admin.list_topics("misspelt", timeout=10).topics["misspelt"].error is not None

    # Everything is cached by now: a proxy that refuses stands for a machine without network.
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    kill(before.pid)
    mended = of(LocalStack(repo).up(["kafka"]), "kafka")
    assert mended.state == "running"
    assert mended.ports == before.ports

    LocalStack(repo).down()
    with socket.create_server((ports.HOST, before.ports["controller"])):
        moved = of(LocalStack(repo).up(["kafka"]), "kafka")
    assert moved.ports["controller"] != before.ports["controller"]
    admin = AdminClient({"bootstrap.servers": load_settings(repo).kafka_bootstrap_servers})
    assert len(admin.list_topics(timeout=10).topics["kept"].partitions) == 3


def ask_triton(status: ServiceStatus, role: str, method: str, path: str) -> str:
    connection = http.client.HTTPConnection(ports.HOST, status.ports[role], timeout=30)
    connection.request(method, path, body="{}" if method == "POST" else None)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    assert answer.status == 200, body
    return body


def write_model(repository: Path, name: str) -> None:
    model = repository / name
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text(
        f'name: "{name}"\nbackend: "python"\nmax_batch_size: 8\n'
        'input [{ name: "x" data_type: TYPE_FP32 dims: [2] }]\n'
        'output [{ name: "y" data_type: TYPE_FP32 dims: [1] }]\n'
        "instance_group [{ kind: KIND_CPU count: 1 }]\nresponse_cache { enable: true }\n"
    )
    (model / "1" / "model.py").write_text(
        textwrap.dedent("""
        import triton_python_backend_utils as pb
        import xgboost

        class TritonPythonModel:
            def execute(self, requests):
                return [
                    pb.InferenceResponse([pb.Tensor("y", r.inputs()[0].as_numpy()[:, :1])])
                    for r in requests
                ]
        """)
    )


def test_triton_serves_the_models_of_the_repo_and_leaves_nothing(
    repo: Path, needs: Callable[[str], None]
) -> None:
    import numpy as np
    import tritonclient.grpc as grpc

    needs("triton")
    write_model(repo / load_settings(repo).model_repository, "echo")
    before = of(LocalStack(repo).up(["triton"]), "triton")
    kill(before.pid)
    # The killed server's helper processes and its shared memory are swept up by `up`.
    status = of(LocalStack(repo).up(["triton"]), "triton")
    assert status.ports == before.ports

    x = grpc.InferInput("x", [3, 2], "FP32")
    x.set_data_from_numpy(np.array([[1, 2], [3, 4], [5, 6]], np.float32))
    with grpc.InferenceServerClient(load_settings(repo).triton_grpc_url) as server:
        answers = [server.infer("echo", [x]).as_numpy("y") for _ in range(2)]
    assert [a.ravel().tolist() for a in answers] == [[1, 3, 5], [1, 3, 5]]

    metrics = ask_triton(status, "metrics", "GET", "/metrics")
    assert 'nv_cache_num_hits_per_model{model="echo",version="1"} 1' in metrics
    # Explicit control: models come and go on request.
    write_model(repo / load_settings(repo).model_repository, "late")
    ask_triton(status, "http", "POST", "/v2/repository/models/late/load")
    ask_triton(status, "http", "POST", "/v2/repository/models/echo/unload")
    index: Any = json.loads(ask_triton(status, "http", "POST", "/v2/repository/index"))
    states = {model["name"]: model["state"] for model in index}
    assert states["late"] == "READY"
    assert states["echo"] in ("UNLOADING", "UNAVAILABLE")

    LocalStack(repo).down()
    assert processes.marked(str(StackPaths(repo).root)) == []
    prefix = Triton(StackPaths(repo).data("triton"), repo)._memory_prefix
    assert list(Path("/dev/shm").glob(f"{prefix}*")) == []


def test_without_triton_models_run_in_the_worker_and_ps_says_why(
    repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_env, "cannot_run", lambda: "its wheel is for another machine")
    local = LocalStack(repo)
    found = of(local.up(["triton"]), "triton")
    assert found.state == "in-process"
    assert "another machine" in str(found.detail)
    assert json.loads((repo / ".streamsvc/endpoints.json").read_text()) == {
        "model_server": "in-process"
    }
    assert load_settings(repo).model_server == "in-process"
    # Asked for by name, it may not be replaced in silence.
    monkeypatch.setenv("STREAMSVC_MODEL_SERVER", "triton")
    with pytest.raises(UnavailableError, match="STREAMSVC_TRITON_GRPC_URL"):
        local.up(["triton"])


def test_triton_can_be_left_out(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMSVC_MODEL_SERVER", "in-process")
    assert of(LocalStack(repo).up(["triton"]), "triton").state == "in-process"
    monkeypatch.delenv("STREAMSVC_MODEL_SERVER")
    assert load_settings(repo).model_server == "in-process"


def test_existing_servers_are_used_as_they_are(
    repo: Path, monkeypatch: pytest.MonkeyPatch, needs: Callable[[str], None]
) -> None:
    needs("valkey")
    (repo / "streamsvc.toml").write_text('kafka_bootstrap_servers = "broker.example:9092"\n')
    monkeypatch.setenv("STREAMSVC_REDIS_URL", "redis://me:secret@store.example:6379/0")
    found = LocalStack(repo).up(["kafka", "valkey"])
    assert of(found, "kafka").state == of(found, "valkey").state == "external"
    assert of(found, "kafka").address == "broker.example:9092"
    assert "secret" not in str(of(found, "valkey").address)
    assert processes.marked(str(StackPaths(repo).root)) == []

    # What `env` exported is ours, not somebody else's.
    monkeypatch.delenv("STREAMSVC_REDIS_URL")
    ours = of(LocalStack(repo).up(["valkey"]), "valkey")
    monkeypatch.setenv("STREAMSVC_REDIS_URL", str(ours.address))
    kill(ours.pid)
    assert of(LocalStack(repo).up(["valkey"]), "valkey").state == "running"


def test_an_unknown_server_is_a_wrong_argument(repo: Path) -> None:
    with pytest.raises(ConfigurationError, match="kafka, valkey, triton"):
        LocalStack(repo).up(["zookeeper"])


def test_the_commands(repo: Path, needs: Callable[[str], None]) -> None:
    needs("valkey")

    def told(*arguments: str) -> str:
        process = run_cli(repo, *arguments)
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        return out

    assert "stopped" in told("ps")
    shown = json.loads(told("up", "valkey", "--json"))
    assert [server["state"] for server in shown] == ["stopped", "running", "stopped"]
    assert json.loads(told("ps", "--json")) == shown
    assert json.loads(told("env", "--json"))["redis_url"] == shown[1]["address"]
    assert "valkey  | " in told("logs", "valkey", "-n", "3")
    assert told("down", "-v").startswith("Stopped valkey.")
    assert not (repo / ".streamsvc").exists()


def test_an_id_of_the_cluster_may_begin_with_a_dash(
    tmp_path: Path, needs: Callable[[str], None]
) -> None:
    needs("kafka")
    (tmp_path / "cluster.id").write_text(made := "-" + "A" * 20 + "Q")
    kafka = Kafka(tmp_path)
    kafka.prepare(Report())
    kafka.launch({"kafka": 9092, "controller": 9093})  # says how to start it, and formats its data
    assert f"cluster.id={made}" in (tmp_path / "data" / "meta.properties").read_text()
