from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from streamsvc.errors import UnavailableError
from streamsvc.local import kafka_jars
from streamsvc.local.kafka_jars import KAFKA, Jar, fetch_jars, locked_jars
from streamsvc.local.report import Report

CONTENT = b"a jar"


class Maven:
    """Stands in for jgo: `serve` is what the network gives, None for no network."""

    def __init__(self, serve: bytes | None) -> None:
        self.serve = serve
        self.asked = 0

    def project(self, group: str, artifact: str) -> Maven:
        return self

    def at_version(self, version: str) -> Maven:
        return self

    def artifact(self) -> Maven:
        return self

    def resolve(self) -> None:
        self.asked += 1
        path = locked_jars()[0].path
        # As jgo does: what is there is taken as it is.
        if path.exists():
            return
        if self.serve is None:
            raise ConnectionError("Network is unreachable")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.serve)


@pytest.fixture
def maven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Maven:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    jar = Jar("org.example", "it", "1.0", hashlib.sha256(CONTENT).hexdigest())
    found = Maven(CONTENT)
    monkeypatch.setattr(kafka_jars, "locked_jars", lambda: [jar])
    monkeypatch.setattr(kafka_jars, "_maven", lambda _: found)
    monkeypatch.setitem(globals(), "locked_jars", lambda: [jar])
    return found


def test_downloads_once(maven: Maven, tmp_path: Path) -> None:
    expected = [tmp_path / "streamsvc/maven/org/example/it/1.0/it-1.0.jar"]
    assert fetch_jars(Report()) == expected
    maven.serve = None
    assert fetch_jars(Report()) == expected
    assert maven.asked == 1


def test_an_interrupted_download_is_fetched_again(maven: Maven) -> None:
    (path,) = fetch_jars(Report())
    path.write_bytes(CONTENT[:2])
    assert fetch_jars(Report()) == [path]
    assert path.read_bytes() == CONTENT


def test_other_bytes_than_the_locked_ones_are_refused_and_not_kept(maven: Maven) -> None:
    maven.serve = b"something else"
    with pytest.raises(UnavailableError, match="SHA-256"):
        fetch_jars(Report())
    assert not locked_jars()[0].path.exists()


def test_no_network_names_the_way_out(maven: Maven) -> None:
    maven.serve = None
    with pytest.raises(UnavailableError, match="STREAMSVC_KAFKA_BOOTSTRAP_SERVERS"):
        fetch_jars(Report())


def test_the_lock_holds_what_was_asked_for() -> None:
    lock: Any = kafka_jars.tomllib.loads(kafka_jars.LOCK.read_text())
    jars = {f"{j['group']}:{j['artifact']}:{j['version']}" for j in lock["jars"]}
    assert set(KAFKA.split("+")) <= jars
    assert len(jars) == len(lock["jars"])
    assert all(len(j["sha256"]) == 64 for j in lock["jars"])
