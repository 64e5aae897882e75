"""A real Schema Registry: Apicurio, fetched from Maven like the broker, checked by SHA-256."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile
import time
import urllib.request
from pathlib import Path

from streamsvc.errors import UnavailableError
from streamsvc.local import kafka_jars
from streamsvc.local.java import find_java

GROUP, ARTIFACT, VERSION = "io.apicurio", "apicurio-registry-app", "2.6.13.Final"
SHA256 = "3cda1b34aa020fb4ac4dd6a66018d757e81e437f97e20a1f92d366b70091c6ba"
PATIENCE_S = 300


def fetch() -> Path:
    """The unpacked registry, in the cache that the broker's jars are in."""
    folder = kafka_jars.repository() / GROUP.replace(".", "/") / ARTIFACT / VERSION
    archive = folder / f"{ARTIFACT}-{VERSION}-all.tar.gz"
    unpacked = folder / SHA256[:12]
    if unpacked.exists():
        return unpacked
    if not archive.exists():
        project = kafka_jars._maven(None).project(GROUP, ARTIFACT)
        artifact = project.at_version(VERSION).artifact(classifier="all", packaging="tar.gz")
        try:
            artifact.resolve()
        except (OSError, RuntimeError) as error:
            raise UnavailableError(f"cannot download the schema registry: {error}") from error
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        archive.unlink()
        raise UnavailableError(f"{archive.name} has the SHA-256 sum {digest}; it was not used")
    partial = folder / f"{os.getpid()}.partial"
    with tarfile.open(archive) as files:
        files.extractall(partial, filter="data")
    try:
        partial.rename(unpacked)
    except OSError:  # another test run was faster
        shutil.rmtree(partial)
    return unpacked


class Registry:
    """A context manager; `url` is what `schema_registry_url` is set to."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def __enter__(self) -> Registry:
        program = fetch() / f"{ARTIFACT}-{VERSION}-runner.jar"
        options = ["-Xmx256m", "-XX:TieredStopAtLevel=1", "-Dquarkus.http.host=127.0.0.1"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                # Port 0: the system picks a free one, and the registry says which.
                [find_java(), *options, "-Dquarkus.http.port=0", "-jar", str(program)],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            told = re.search(r"Listening on: http://([\d.]+:\d+)", self._log.read_text())
            if told:
                self.address = told.group(1)
                return self
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise UnavailableError(f"no schema registry: {self._log.read_text()[-2000:]}")
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)

    @property
    def url(self) -> str:
        return f"http://{self.address}/apis/ccompat/v7"

    def register(self, subject: str, schema: str, kind: str = "AVRO", references=()) -> int:
        """Returns the schema's id. References are (name, subject, version)."""
        body = {"schemaType": kind, "schema": schema}
        body["references"] = [
            {"name": name, "subject": of, "version": version} for name, of, version in references
        ]
        request = urllib.request.Request(
            f"{self.url}/subjects/{subject}/versions",
            json.dumps(body).encode(),
            {"Content-Type": "application/vnd.schemaregistry.v1+json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())["id"]
