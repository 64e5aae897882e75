"""Workers as processes, forked from one that has imported everything: up in a second."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

PATIENCE_S = 180

_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["streamsvc.agents.scoring", "streamsvc.agents.features"])


def _work(kind: str, log: Path, arguments: tuple[Any, ...]) -> None:
    from streamsvc.agents import features, scoring

    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    run: Any = features.run_views if kind == "features" else scoring.run_services
    asyncio.run(run(*arguments))


class Worker:
    """A feature or scoring worker; `log` gets what it says."""

    def __init__(self, kind: str, log: Path, *arguments: Any) -> None:
        self.log = log
        self._seen = self._said()
        self._process = _forks.Process(target=_work, args=(kind, log, arguments))
        self._process.start()

    def send_signal(self, which: signal.Signals) -> None:
        """Nothing happens if it has ended."""
        if self._process.is_alive():
            assert self._process.pid is not None
            os.kill(self._process.pid, which)

    async def wait(self) -> int | None:
        """Its exit code, negative for a signal."""
        await asyncio.to_thread(self._process.join, PATIENCE_S)
        assert not self._process.is_alive(), self.log.read_text()[-4_000:]
        return self._process.exitcode

    async def started(self) -> None:
        """Return once it says that it has."""
        async with asyncio.timeout(PATIENCE_S):
            while self._said() == self._seen:
                assert self._process.is_alive(), self.log.read_text()[-4_000:]
                await asyncio.sleep(0.05)

    def _said(self) -> int:
        return self.log.read_text().count("_worker_started") if self.log.exists() else 0
