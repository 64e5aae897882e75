"""Where the local stack keeps things: per repo under `.streamsvc/`, per user under the cache.

What belongs to one repo (data, logs, pid files, ports) lies in the repo; what is downloaded once
(jars, Triton's environment) lies in the user's cache directory, so that two repos share it.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamsvc.settings import DATA_DIR, ENDPOINTS_FILE

__all__ = ["StackPaths", "cache_dir", "read_json", "write_json"]


@dataclass(frozen=True, slots=True)
class StackPaths:
    """Paths of one repo's stack; `repo` is absolute."""

    repo: Path

    @property
    def root(self) -> Path:
        """Everything that `down -v` removes."""
        return self.repo / DATA_DIR

    @property
    def endpoints(self) -> Path:
        """Addresses of the running servers; it exists only while the stack is up."""
        return self.repo / ENDPOINTS_FILE

    @property
    def memory(self) -> Path:
        """Ports used last, and why Triton does not run; kept by `down`."""
        return self.root / "stack.json"

    @property
    def lock(self) -> Path:
        """Held by `up` and `down`, so that two of them cannot race."""
        return self.root / "lock"

    def mark(self, service: str) -> str:
        """What every process of a server carries in its environment; begins with `root`."""
        return f"{self.root}/{service}"

    def data(self, service: str) -> Path:
        """A server's own directory: its data and the configuration written for it."""
        return self.root / service

    def log(self, service: str) -> Path:
        """What a server printed, across restarts."""
        return self.root / "logs" / f"{service}.log"

    def pid(self, service: str) -> Path:
        """The process that runs a server, and its ports."""
        return self.root / "run" / f"{service}.json"


def cache_dir() -> Path:
    """The per-user cache directory, by the XDG convention."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "streamsvc"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object, or an empty one if the file is missing or was cut short by a crash."""
    try:
        found = json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace the file in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(json.dumps(value, indent=2) + "\n")
    fresh.replace(path)
