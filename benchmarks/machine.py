"""What stands above every figure: when, on what, with which versions."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ["hardware", "machine", "today", "versions"]


def machine(*packages: str) -> str:
    """Date, processor, cores, load, and versions of Python and these packages."""
    found = versions(*packages)
    return " · ".join([today(), hardware(), *(f"{name} {v}" for name, v in found.items())])


def today() -> str:
    """The date in UTC."""
    return f"{datetime.now(UTC):%Y-%m-%d}"


def hardware() -> str:
    """Processor, cores, and how many processes want them."""
    models = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    name = models[0] if models else platform.machine()
    return f"{name} · {os.cpu_count()} cores · load {os.getloadavg()[0]:.1f}"


def versions(*packages: str) -> dict[str, str]:
    """Of Python and these packages."""
    return {"Python": platform.python_version()} | {name: version(name) for name in packages}
