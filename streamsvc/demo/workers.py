"""The feature worker and the scoring worker as child processes of the demo, none left behind."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from streamsvc.errors import UnavailableError
from streamsvc.local import processes
from streamsvc.local.logs import last_lines
from streamsvc.local.paths import StackPaths

__all__ = ["Worker", "Workers"]

_POLL_S = 0.05
_START_S = 180.0
_STOP_S = 20.0
_SHOWN_LINES = 12


@dataclass(frozen=True, slots=True)
class Worker:
    """One `streamsvc worker …`."""

    kind: str
    process: processes.ProcessId
    log: Path
    log_start: int
    """Where in the log this process began."""


class Workers:
    """A context manager around the workers of one repo; whatever ends it, they end with it.

    Those that an earlier demo had to leave behind, because it was killed, are stopped on entry.
    """

    def __init__(self, repo: Path) -> None:
        self._repo = repo
        self._paths = StackPaths(repo)
        self._mark = self._paths.mark("demo")
        self._running: list[Worker] = []

    def __enter__(self) -> Workers:
        processes.stop(self._mark, _STOP_S)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def compile_kernels(self) -> None:
        """Compile what they will run, beside whatever is done until they start.

        Nobody waits for it: what is not in the disk cache by then, a worker compiles itself.
        """
        argv = [sys.executable, "-m", "streamsvc.agents.warm"]
        processes.spawn(argv, os.environ, self._paths.log("kernels"), self._mark)

    def start(self, kind: str, settings: Mapping[str, str]) -> Worker:
        """Start a worker of a kind with settings of its own; it is not ready yet."""
        log = self._paths.log(f"worker-{kind}")
        start = log.stat().st_size if log.exists() else 0
        # Feast sets this in whoever imports it; a worker would share its metrics with strangers.
        inherited = {k: v for k, v in os.environ.items() if k != "PROMETHEUS_MULTIPROC_DIR"}
        environment = {
            **inherited,
            "STREAMSVC_LOG_FORMAT": "json",
            "STREAMSVC_METRICS_PORT": "0",
            **{f"STREAMSVC_{name.upper()}": value for name, value in settings.items()},
        }
        argv = [sys.executable, "-m", "streamsvc", "-c", str(self._repo), "worker", kind]
        process = processes.spawn(argv, environment, log, self._mark)
        worker = Worker(kind, process, log, start)
        self._running.append(worker)
        return worker

    def metrics_port(self, worker: Worker) -> int:
        """Wait until the worker says that it has started; its Prometheus port.

        Raises UnavailableError if it ends instead.
        """
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline:
            port = _started_on(worker)
            if port is not None:
                return port
            self.check()
            time.sleep(_POLL_S)
        raise UnavailableError(f"The {worker.kind} worker did not start; see {worker.log}")

    def check(self) -> None:
        """Raise UnavailableError with the end of its log if a worker is gone."""
        for worker in self._running:
            if not processes.is_alive(worker.process):
                tail = "\n".join(last_lines(worker.log, _SHOWN_LINES))
                raise UnavailableError(
                    f"The {worker.kind} worker ended; {worker.log} ends with:\n{tail}"
                )

    def stop(self) -> None:
        """SIGTERM to all, SIGKILL to those that do not obey; returns when none is left."""
        # An impatient second Ctrl-C must not leave processes behind.
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            processes.stop(self._mark, _STOP_S)
        finally:
            signal.signal(signal.SIGINT, before)
        self._running.clear()


def _started_on(worker: Worker) -> int | None:
    with worker.log.open("rb") as handle:
        handle.seek(worker.log_start)
        for line in handle:
            if b"_worker_started" in line and line.endswith(b"\n"):
                return int(json.loads(line)["metrics_port"])
    return None
