"""Kafka's jars: exactly those of `kafka.lock.toml`, fetched from Maven by jgo, checked by SHA-256.

`python -m streamsvc.local.kafka_jars` resolves KAFKA anew and writes the lock.
"""

from __future__ import annotations

import hashlib
import logging
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from streamsvc.errors import UnavailableError
from streamsvc.local.paths import cache_dir
from streamsvc.local.report import Report
from streamsvc.local.service import elsewhere

__all__ = ["KAFKA", "Jar", "fetch_jars", "locked_jars", "write_lock"]

KAFKA = "org.apache.kafka:kafka_2.13:4.1.1+org.slf4j:slf4j-simple:1.7.36"
"""Maven endpoint: the broker, and a logger that prints."""

LOCK = Path(__file__).with_name("kafka.lock.toml")

_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Jar:
    """One jar, by its Maven coordinates and the SHA-256 sum of its bytes."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where it lies in the cache, in Maven's own layout."""
        folder = repository() / self.group.replace(".", "/") / self.artifact / self.version
        return folder / f"{self.artifact}-{self.version}.jar"

    def is_intact(self) -> bool:
        """Whether the cached file is there and is the locked one."""
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest() == self.sha256
        except FileNotFoundError:
            return False


def repository() -> Path:
    """The cache of jars, shared by all repos of a user."""
    return cache_dir() / "maven"


def locked_jars() -> list[Jar]:
    """The jars of the lock, in class path order."""
    return [Jar(**entry) for entry in tomllib.loads(LOCK.read_text())["jars"]]


def fetch_jars(report: Report) -> list[Path]:
    """Paths of all jars, each intact; downloads those that are not. No network if all are cached.

    Raises UnavailableError if one cannot be had, or is not what was locked.
    """
    jars = locked_jars()
    missing = [jar for jar in jars if not jar.is_intact()]
    if missing:
        if find_spec("jgo") is None:
            raise UnavailableError(
                "Kafka's jars are fetched by the package jgo, which is not installed "
                f"(pip install 'streamsvc[local]'). {elsewhere('kafka_bootstrap_servers')}"
            )
        with report.downloading("Downloading Kafka", len(missing)) as progress:
            context = _maven(progress.file)
            for jar in missing:
                _download(jar, context)
    return [jar.path for jar in jars]


def _maven(progress: Any) -> Any:
    from jgo.config import GlobalSettings
    from jgo.constants import MAVEN_CENTRAL_URL
    from jgo.maven import MavenContext
    from jgo.maven._resolver import PythonResolver

    # A mirror named in the user's jgo configuration comes before Maven Central.
    remotes = {**GlobalSettings.load().repositories, "central": MAVEN_CENTRAL_URL}
    resolver = PythonResolver(progress_callback=progress)
    return MavenContext(resolver, repo_cache=repository(), remote_repos=remotes, timeout=_TIMEOUT_S)


def _download(jar: Jar, context: Any) -> None:
    # A file that is there but not intact is the rest of an interrupted download.
    jar.path.unlink(missing_ok=True)
    artifact = context.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    try:
        artifact.resolve()
    except (OSError, RuntimeError) as error:
        raise UnavailableError(
            f"Cannot download {jar.path.name}, which Kafka needs ({type(error).__name__}: "
            f"{error}). {elsewhere('kafka_bootstrap_servers')}"
        ) from error
    if not jar.is_intact():
        jar.path.unlink(missing_ok=True)
        raise UnavailableError(
            f"{jar.path.name} came from the network with another SHA-256 sum than the locked one; "
            f"it was not used. {elsewhere('kafka_bootstrap_servers')}"
        )


def write_lock() -> None:
    """Resolve KAFKA with jgo and write the lock: what `make lock` runs."""
    import jgo

    logging.getLogger("jgo").setLevel(logging.ERROR)
    lines = [
        "# Jars of the local Kafka broker, with the SHA-256 sums they must have.",
        "# Written by `python -m streamsvc.local.kafka_jars`.",
    ]
    for artifact in jgo.resolve(KAFKA):
        digest = hashlib.sha256(artifact.resolve().read_bytes()).hexdigest()
        lines += [
            "",
            "[[jars]]",
            f'group = "{artifact.groupId}"',
            f'artifact = "{artifact.artifactId}"',
            f'version = "{artifact.version}"',
            f'sha256 = "{digest}"',
        ]
    LOCK.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    write_lock()
