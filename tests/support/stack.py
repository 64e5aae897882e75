"""Real servers, as tests and benchmarks are given them."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from streamsvc.settings import Settings


@dataclass(frozen=True)
class Stack:
    """Real servers. `repo` is the directory that the local ones belong to."""

    settings: Settings
    repo: Path

    def unique(self, prefix: str) -> str:
        """A name that nobody used before, fit for a topic, a group or a namespace."""
        return f"{prefix}-{uuid.uuid4().hex[:10]}"

    @property
    def model_repository(self) -> Path:
        """Absolute path of the directory that Triton reads models from."""
        return self.repo / self.settings.model_repository
