"""A supervisor: as many workers of each kind as are wanted, whatever becomes of them.

Like one in production it starts again what was killed or ended with exit code 3 (a server is away).
Any other end is a defect.
"""

from __future__ import annotations

import signal
import subprocess
from collections import Counter
from dataclasses import dataclass

from support.repo import RunningRepo

SERVER_AWAY = 3


@dataclass(slots=True)
class Worker:
    name: str
    kind: str
    process: subprocess.Popen
    told: signal.Signals | None = None
    """How it was asked to end."""
    started: bool = False
    paused: bool = False

    @property
    def expected(self) -> tuple[int, ...]:
        """Exit codes that are no defect. A SIGTERM may come before Python can hear it."""
        if self.told is signal.SIGKILL:
            return (-signal.SIGKILL, SERVER_AWAY)
        if self.told is signal.SIGTERM:
            return (0, SERVER_AWAY, -signal.SIGTERM)
        return (SERVER_AWAY,)


class Workers:
    """The workers of a repo. `tend` has to be called now and then; nothing happens meanwhile."""

    def __init__(self, repo: RunningRepo, **wanted: int) -> None:
        """`wanted` says how many of each kind."""
        self.wanted = wanted
        self.restarts: Counter[str] = Counter()
        """By kind of worker: ended because a server was away, and started again."""
        self._repo = repo
        self._all: list[Worker] = []
        self._started = 0

    def tend(self) -> None:
        """Notice who has ended, and start who is missing."""
        for worker in list(self._all):
            code = worker.process.poll()
            if code is None:
                continue
            self._all.remove(worker)
            self._repo.workers.pop(worker.name, None)
            if code not in worker.expected:
                end = self._repo.log_of(worker.name)[-6_000:]
                raise AssertionError(f"{worker.name} ended with exit code {code}:\n{end}")
            if worker.told is None:
                self.restarts[worker.kind] += 1
        for kind, wanted in self.wanted.items():
            for _ in range(wanted - len(self.of(kind))):
                self._started += 1
                name = f"{kind}-{self._started}"
                process = self._repo.start_worker(name, kind)
                self._all.append(Worker(name, kind, process))

    def of(self, kind: str) -> list[Worker]:
        """Those that run and were not asked to end, the longest-lived first."""
        return [w for w in self._all if w.kind == kind and w.told is None]

    def working(self, kind: str) -> list[Worker]:
        """Those that have started and are not paused."""
        return [w for w in self.of(kind) if not w.paused and self._has_started(w)]

    def _has_started(self, worker: Worker) -> bool:
        worker.started = worker.started or "_worker_started" in self._repo.log_of(worker.name)
        return worker.started

    def end(self, worker: Worker, how: signal.Signals) -> None:
        """Returns at once; `tend` starts another one."""
        worker.told = how
        worker.process.send_signal(how)
        self.wake(worker)

    def pause(self, worker: Worker) -> None:
        worker.paused = True
        worker.process.send_signal(signal.SIGSTOP)

    def wake(self, worker: Worker) -> None:
        worker.paused = False
        worker.process.send_signal(signal.SIGCONT)

    def scale(self, kind: str, wanted: int) -> None:
        """More or fewer of a kind; those that go are asked to."""
        self.wanted[kind] = wanted
        for worker in self.of(kind)[wanted:]:
            self.end(worker, signal.SIGTERM)

    def complete(self) -> bool:
        """Whether nobody is missing, and nobody is on their way out."""
        return len(self._all) == sum(self.wanted.values()) and all(
            worker.told is None for worker in self._all
        )

    def gone(self, kind: str) -> bool:
        """Whether none of a kind runs, not even one that is ending."""
        return all(w.kind != kind or w.process.poll() is not None for w in self._all)
