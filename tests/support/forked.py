"""Processes forked from one that has imported everything: up in a second, and not in eight.

`test_worker_start`, the demo and the README's commands start as a user's do.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Command", "fork"]

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["support.preloaded"])
_TESTS = str(Path(__file__).parents[1])


def fork(log: Path, run: Callable[..., None], *arguments: Any) -> Any:
    """A started process that runs a function; `log` gets what it says."""
    _start_server()
    log.touch()
    process = _forks.Process(target=_logged, args=(log, run, arguments))
    process.start()
    return process


class Command:
    """`streamsvc …` as a process, with what the tests use of `subprocess.Popen`."""

    def __init__(
        self, words: Sequence[str], cwd: Path, environment: Mapping[str, str], log: Path
    ) -> None:
        self._process = fork(log, _streamsvc, tuple(words), cwd, dict(environment))
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        code: int | None = self._process.exitcode
        return code

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code. Raises subprocess.TimeoutExpired."""
        self._process.join(timeout)
        code = self.poll()
        if code is None:
            raise subprocess.TimeoutExpired("streamsvc", timeout or 0.0)
        return code

    def send_signal(self, which: signal.Signals) -> None:
        """Nothing happens if it has ended."""
        if self.poll() is None:
            os.kill(self.pid, which)

    def kill(self) -> None:
        """kill -9."""
        self.send_signal(signal.SIGKILL)


def _start_server() -> None:
    """Where it finds what to preload: Python 3.11 hands it our path and then does not use it
    (CPython issue 117378), and that an import fails it tells nobody."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = _TESTS if before is None else f"{_TESTS}{os.pathsep}{before}"
    try:
        multiprocessing.forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _logged(log: Path, run: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run(*arguments)


def _streamsvc(words: tuple[str, ...], cwd: Path, environment: dict[str, str]) -> None:
    from streamsvc.cli.main import main

    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path.insert(0, str(cwd))  # as `python -m` does
    sys.argv = ["streamsvc", *words]
    main()
