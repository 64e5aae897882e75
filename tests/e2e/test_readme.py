"""The README, done as it says: every block of its tutorial, in order, on real servers.

Blocks that begin with `# shop/…` are files. Blocks of `bash` and `python` are run, one after the
other in one directory and environment. A block of workers is started in the background, and the
reader waits, as anybody would, until they say that they have started. Blocks of `sh` are for the
whole checkout and are only looked at.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest
from support.command_line import parse

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


class Block(NamedTuple):
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file that the block is, if it is one."""
        found = re.match(r"# (shop/\S+)\n", self.text)
        return found[1] if found else None

    def renamed(self, names: Mapping[str, str]) -> Block:
        """The block with names of its own, because tests share servers."""
        text = self.text
        for name, own in names.items():
            text = text.replace(name, own)
        return self._replace(text=text)


BLOCKS = [Block(*found) for found in re.findall(r"^```(\w*)\n(.*?)^```$", README, re.M | re.S)]


class Reader:
    """Somebody with a terminal, or several. Leaves no process behind."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = environment
        self.said: list[str] = []
        self.workers: list[tuple[subprocess.Popen[bytes], Path]] = []
        (home / "cwd").write_text(str(home))

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        for process, _ in self.workers:
            process.send_signal(signal.SIGTERM)
        for process, _ in self.workers:
            try:
                process.wait(300)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)

    @property
    def directory(self) -> Path:
        return Path((self.home / "cwd").read_text().strip())

    def write(self, block: Block) -> None:
        assert block.file
        path = self.home / block.file
        path.parent.mkdir(exist_ok=True)
        path.write_text(block.text)

    def run(self, block: Block) -> str:
        command = [sys.executable, "-"]
        text = block.text
        if block.language == "bash":
            command = ["bash", "-euo", "pipefail"]
            text += f"\npwd > {shlex.quote(str(self.home / 'cwd'))}\n"
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"{block.text}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
        self.said.append(done.stdout)
        return done.stdout

    def start(self, block: Block) -> None:
        for line in block.text.splitlines():
            log = self.home / f"worker-{len(self.workers)}.log"
            with log.open("wb") as file:
                process = subprocess.Popen(
                    shlex.split(line, comments=True),
                    cwd=self.directory,
                    env=self.environment,
                    stdout=file,
                    stderr=file,
                )
            self.workers.append((process, log))
        deadline = time.monotonic() + 300
        while not all("_worker_started" in log.read_text() for _, log in self.workers):
            assert time.monotonic() < deadline, self.logs()
            assert all(process.poll() is None for process, _ in self.workers), self.logs()
            time.sleep(0.1)

    def logs(self) -> str:
        return "\n".join(log.read_text()[-4_000:] for _, log in self.workers)


@pytest.fixture
def environment(triton) -> dict[str, str]:
    """The tests' servers, in the place of those that `streamsvc up` would start."""
    settings = triton.settings
    outside = {k: v for k, v in os.environ.items() if not k.startswith("STREAMSVC_")}
    return {
        **outside,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "STREAMSVC_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "STREAMSVC_REDIS_URL": settings.redis_url.get_secret_value(),
        "STREAMSVC_TRITON_GRPC_URL": settings.triton_grpc_url,
        "STREAMSVC_TRITON_HTTP_URL": settings.triton_http_url,
        "STREAMSVC_MODEL_REPOSITORY": str(triton.model_repository),
    }


def test_the_tutorial_works(triton, environment, tmp_path) -> None:
    topic, model = triton.unique("card-payments"), triton.unique("fraud")
    own_names = {
        "card-payments": topic,
        "predictions.fraud": f"predictions.{model}",
        'model="fraud"': f'model="{model}"',
        "project: shop": f"project: {triton.unique('shop').replace('-', '_')}",
    }
    answers: dict[str, str] = {}
    with Reader(tmp_path, environment) as reader:
        for block in (b.renamed(own_names) for b in BLOCKS):
            if block.file:
                if block.language != "toml":
                    reader.write(block)
            elif block.language == "bash" and "streamsvc worker " in block.text:
                reader.start(block)
            elif block.language in ("bash", "python"):
                answers[block.text] = reader.run(block)

    def said(text: str) -> str:
        return next(answer for asked, answer in answers.items() if text in asked)

    assert "Triton" in said("streamsvc train")
    assert said("consumer.subscribe").count("{'card_id': 'c-42'}") == 3
    assert json.loads(said("feast get-online-features")) == {
        "card_id": ["c-42"],
        "payments_1h": [3],
        "spent_1h": [212.5],
    }
    assert "212.5" in said("get_feature_service")


# --- what is not run, looked at ------------------------------------------------------------------


def test_every_block_is_of_a_kind_that_is_looked_after() -> None:
    assert {b.language for b in BLOCKS} <= {"", "sh", "bash", "python", "yaml", "toml"}


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M)
    asked = [line.split()[1] for b in BLOCKS if b.language == "sh" for line in b.text.splitlines()]
    assert asked
    assert set(asked) <= set(targets)


def test_settings_of_the_example_exist(tmp_path, monkeypatch) -> None:
    from streamsvc.settings import load_settings

    for key in [key for key in os.environ if key.startswith("STREAMSVC_")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("STREAMSVC_KAFKA_SASL_PASSWORD", "secret")
    (block,) = [b for b in BLOCKS if b.language == "toml"]
    (tmp_path / "streamsvc.toml").write_text(block.text)
    assert load_settings(tmp_path).key_groups == 32


def test_commands_parse() -> None:
    for block in BLOCKS:
        for line in block.text.splitlines() if block.language == "bash" else ():
            words = shlex.split(line, comments=True)
            if words and words[0] == "streamsvc":
                parse(words[1:])
