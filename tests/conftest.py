"""Servers for the tests that need real ones: started once a run, stopped at its end.

With STREAMSVC_KAFKA_BOOTSTRAP_SERVERS (STREAMSVC_REDIS_URL, STREAMSVC_TRITON_GRPC_URL) set, the
servers named there are used instead. A server that cannot run here skips the tests that need it,
and fails them where CI=true.
"""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

# Before any test imports Feast, whose metrics put whoever imports this later into multi-process
# mode, where all registries of a process share their values. Workers import it first, too.
import prometheus_client  # noqa: F401
import pytest
from support.registry import Registry

from streamsvc.errors import UnavailableError
from streamsvc.local.stack import LocalStack
from streamsvc.settings import Settings, load_settings


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


def pytest_configure() -> None:
    # A cancelled job gets SIGTERM: it too must run the fixtures' ends, which stop the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Kafka and an online store."""
    repo = tmp_path_factory.mktemp("stack")
    local = LocalStack(repo)
    try:
        try:
            local.up(["kafka", "valkey"])
        except UnavailableError as error:
            unavailable(str(error))
        yield Stack(load_settings(repo), repo)
    finally:
        local.down(volumes=True)


@pytest.fixture(scope="session")
def triton(stack: Stack) -> Stack:
    """The same servers and Triton, which reads models from `.model_repository`."""
    local = LocalStack(stack.repo)
    local.up(["triton"])
    if local.in_process_because is not None:
        unavailable(local.in_process_because)
    return replace(stack, settings=load_settings(stack.repo))


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A Schema Registry."""
    made = Registry(tmp_path_factory.mktemp("registry"))
    try:
        made.__enter__()
    except UnavailableError as error:
        unavailable(str(error))
    yield made
    made.__exit__()


def unavailable(reason: str) -> NoReturn:
    """Skip, or fail where everything is expected to be there."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)
