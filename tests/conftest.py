"""Servers for the tests that need real ones: started once a run, stopped at its end.

With `pytest -n 2` the processes share them: whichever needs one first starts it, and the process
that the run began in stops all of them, and what the tests left behind, when the others have ended.

With STREAMSVC_KAFKA_BOOTSTRAP_SERVERS (STREAMSVC_REDIS_URL, STREAMSVC_TRITON_GRPC_URL) set, the
servers named there are used instead. A server that cannot run here skips the tests that need it,
and fails them where CI=true.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import hypothesis

# Before any test imports Feast, whose metrics put whoever imports this later into multi-process
# mode, where all registries of a process share their values. Workers import it first, too.
import prometheus_client  # noqa: F401
import pytest
from support.registry import Registry
from support.stack import Stack

from streamsvc.agents.warm import warm
from streamsvc.errors import UnavailableError
from streamsvc.local import processes
from streamsvc.local.stack import LocalStack, ServiceStatus
from streamsvc.settings import load_settings

# No test is about time: a loaded machine takes seconds where a quiet one takes milliseconds.
hypothesis.settings.register_profile("streamsvc", deadline=None)
hypothesis.settings.load_profile("streamsvc")

RUN = pytest.StashKey[Path]()
"""A directory of this run: the servers' repo is in it, and its name marks all its processes."""
STOP_S = 10.0
ORDER = ("chaos", "e2e", "integration", "unit")


def pytest_configure(config: pytest.Config) -> None:
    # A cancelled job gets SIGTERM: it too must end properly, which stops the servers.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if began_elsewhere(config):
        config.stash[RUN] = Path(config.workerinput["run"])  # type: ignore[attr-defined]
    else:
        config.stash[RUN] = Path(tempfile.mkdtemp(prefix="streamsvc-tests-"))
    os.environ[processes.MARK] = f"{config.stash[RUN]}/tests"


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process that pytest-xdist is about to start."""
    node.workerinput["run"] = str(node.config.stash[RUN])


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile the kernels once, not in every process that happens to be the first to need them."""
    if began_elsewhere(session.config):
        with (session.config.stash[RUN] / "kernels.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            warm()


def pytest_terminal_summary(terminalreporter: Any, exitstatus: int, config: pytest.Config) -> None:
    """After failures, say of each server that does not run, or had to be replaced, how it ended."""
    stack = config.stash[RUN] / "stack"
    if exitstatus == pytest.ExitCode.OK or not stack.exists():
        return
    for text in (stack.parent / "ended").glob("*"):
        terminalreporter.write_line(text.read_text())
    for each in LocalStack(stack).status():
        if each.state in ("killed", "not answering"):
            terminalreporter.write_line(f"{each.title} is {each.state}; {tail_of(each)}")


def tail_of(server: ServiceStatus) -> str:
    """The last lines of its log."""
    lines = server.log.read_text(errors="replace").splitlines()[-40:]
    return "\n".join([f"the end of {server.log.name}:", *lines])


def pytest_unconfigure(config: pytest.Config) -> None:
    if began_elsewhere(config) or RUN not in config.stash:
        return
    run = config.stash[RUN]
    processes.stop(f"{run}/tests", STOP_S)
    LocalStack(run / "stack").down(volumes=True)
    shutil.rmtree(run)


def began_elsewhere(config: pytest.Config) -> bool:
    """Whether pytest-xdist started this process."""
    return hasattr(config, "workerinput")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes the longest come first, so that both end at about the same time."""
    if began_elsewhere(config):
        items.sort(key=lambda item: ORDER.index(folder_of(item)))


def folder_of(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


@pytest.fixture(scope="session")
def stack(pytestconfig: pytest.Config) -> Stack:
    """Kafka and an online store."""
    repo = pytestconfig.stash[RUN] / "stack"
    repo.mkdir(exist_ok=True)
    try:
        LocalStack(repo).up(["kafka", "valkey"])
    except UnavailableError as error:
        unavailable(str(error))
    return Stack(load_settings(repo), repo)


@pytest.fixture(scope="session")
def triton_once(stack: Stack) -> Stack:
    """The same servers and Triton, as it was started once."""
    return with_triton(stack)


@pytest.fixture
def triton(triton_once: Stack) -> Stack:
    """The same servers and Triton, which reads models from `.model_repository`.

    A test that Triton did not outlive must not fail those behind it: they get a new one.
    """
    ended = [s for s in LocalStack(triton_once.repo).status() if s.state == "killed"]
    for server in ended:
        kept = triton_once.repo.parent / "ended" / f"{server.name}-{os.getpid()}"
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(f"{server.title} ended in an earlier test; {tail_of(server)}")
    return with_triton(triton_once) if ended else triton_once


def with_triton(stack: Stack) -> Stack:
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
