"""Workers as processes, for a plan that is at hand."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from support.forked import fork

PATIENCE_S = 180


def _work(kind: str, arguments: tuple[Any, ...]) -> None:
    from streamsvc.agents import run_features, run_rollouts, run_scoring

    runs: dict[str, Any] = {
        "features": run_features.run_views,
        "scoring": run_scoring.run_services,
        "rollout": run_rollouts.run_rollouts,
    }
    asyncio.run(runs[kind](*arguments))


class Worker:
    """A worker of any of these kinds; `log` gets what it says."""

    def __init__(self, kind: str, log: Path, *arguments: Any) -> None:
        self.log = log
        self._seen = self._said()
        self._process = fork(log, _work, kind, arguments)

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
