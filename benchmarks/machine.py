"""The line that stands above every figure: when, on what, with which versions."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def machine(*packages: str) -> str:
    """Date, processor, cores, load, and versions of Python and these packages."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    versions = [f"{package} {version(package)}" for package in packages]
    return " · ".join(
        [
            f"{datetime.now(UTC):%Y-%m-%d}",
            models[0] if models else platform.machine(),
            f"{os.cpu_count()} cores",
            f"load {os.getloadavg()[0]:.1f}",
            f"Python {platform.python_version()}",
            *versions,
        ]
    )
