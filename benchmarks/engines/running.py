"""An engine's processes while they run: what they use, children included, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

__all__ = ["Running"]


class Running:
    """A process group of its own; `with` ends it, however it was left."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self._log = log
        with log.open("w") as out:
            self._child = subprocess.Popen(
                command,
                env={**os.environ, **env},
                cwd=log.parent,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._root = psutil.Process(self._child.pid)
        self._cpu: dict[int, float] = {}
        self.peak_bytes = 0

    def sample(self) -> float:
        """CPU seconds that all of them have used. Raises AssertionError if the first has ended."""
        assert self._child.poll() is None, f"the engine ended:\n{self.tail()}"
        resident = 0
        for process in (self._root, *self._root.children(recursive=True)):
            try:
                with process.oneshot():
                    times, memory = process.cpu_times(), process.memory_info()
            except psutil.Error:
                continue  # ended just now; what it used until the last look counts
            self._cpu[process.pid] = times.user + times.system
            resident += memory.rss
        self.peak_bytes = max(self.peak_bytes, resident)
        return sum(self._cpu.values())

    def tail(self) -> str:
        """The end of what they printed."""
        return self._log.read_text(errors="replace")[-3_000:]

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._child.pid, number)
                self._child.wait(8)
            except ProcessLookupError:
                break
            except subprocess.TimeoutExpired:
                continue
