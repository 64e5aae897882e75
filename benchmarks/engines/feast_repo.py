"""The Feast repos of the engines that have one: filled in, applied."""

from __future__ import annotations

import os
import string
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import environment

__all__ = ["applied"]


def applied(folder: str, repo: Path, env: Mapping[str, str]) -> None:
    """Copy the repo of an engine's folder, with the names in its configuration filled in, and
    `feast apply` it."""
    repo.mkdir()
    source = environment.HERE / folder
    configuration = string.Template((source / "feature_store.yaml").read_text())
    (repo / "feature_store.yaml").write_text(configuration.substitute(env))
    (repo / "definitions.py").write_text((source / "definitions.py").read_text())
    feast = str(Path(sys.executable).with_name("feast"))
    told = subprocess.run(
        [feast, "-c", str(repo), "apply", "--skip-source-validation"],
        env={**os.environ, **env},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 0, told.stdout + told.stderr
