from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest

from streamsvc.settings import Settings


@dataclass(frozen=True)
class Stack:
    settings: Settings

    def unique(self, prefix: str) -> str:
        return f"{prefix}-{uuid.uuid4().hex[:10]}"


@pytest.fixture(scope="session")
def stack() -> Stack:
    return Stack(
        Settings(
            kafka_bootstrap_servers="127.0.0.1:19092",
            redis_url="redis://127.0.0.1:16379/9",
        )
    )
