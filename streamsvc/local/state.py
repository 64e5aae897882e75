"""What the stack remembers between commands: which process is which, and the ports used last."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from streamsvc.local.paths import StackPaths, read_json, write_json
from streamsvc.local.processes import ProcessId

__all__ = ["Running", "StackState"]


@dataclass(frozen=True, slots=True)
class Running:
    """A server that was started: its process and the ports it was given."""

    process: ProcessId
    ports: Mapping[str, int]


class StackState:
    """The small files under `.streamsvc/`; every write replaces a file in one step."""

    def __init__(self, paths: StackPaths) -> None:
        self._paths = paths

    def running(self, service: str) -> Running | None:
        """What the pid file says; the process may be gone, or be another one by now."""
        found = read_json(self._paths.pid(service))
        try:
            process = ProcessId(found["pid"], found["started_ticks"], found["boot_id"])
            return Running(process, {role: int(port) for role, port in found["ports"].items()})
        except (KeyError, AttributeError, TypeError, ValueError):
            # Empty, or written by another version: as good as no file.
            return None

    def started(self, service: str, running: Running) -> None:
        """Write the pid file, and remember the ports for the next time."""
        value = {**asdict(running.process), "ports": dict(running.ports)}
        write_json(self._paths.pid(service), value)
        memory = read_json(self._paths.memory)
        memory["ports"] = {**memory.get("ports", {}), service: dict(running.ports)}
        write_json(self._paths.memory, memory)

    def process(self, service: str) -> ProcessId | None:
        """The process of the pid file."""
        running = self.running(service)
        return None if running is None else running.process

    def stopped(self, service: str) -> None:
        """Remove the pid file."""
        self._paths.pid(service).unlink(missing_ok=True)

    def last_ports(self, service: str) -> dict[str, int]:
        """Ports of the last start, by role; empty before the first."""
        found = read_json(self._paths.memory).get("ports", {}).get(service, {})
        return {role: int(port) for role, port in found.items()}

    @property
    def in_process_because(self) -> str | None:
        """Why models run inside the scoring worker; None if Triton runs them."""
        found = read_json(self._paths.memory).get("in_process_because")
        return None if found is None else str(found)

    @in_process_because.setter
    def in_process_because(self, reason: str | None) -> None:
        memory = read_json(self._paths.memory)
        if memory.get("in_process_because") != reason:
            write_json(self._paths.memory, {**memory, "in_process_because": reason})

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep other commands from changing the stack meanwhile; waits for them to finish."""
        self._paths.root.mkdir(parents=True, exist_ok=True)
        while True:
            with self._paths.lock.open("w") as handle:
                fcntl.flock(handle, fcntl.LOCK_EX)
                if _is_still(handle.fileno(), self._paths.lock):
                    yield
                    return
            # `down -v` removed the file while we waited for it: take the new one.
            self._paths.root.mkdir(parents=True, exist_ok=True)


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        return os.fstat(descriptor).st_ino == path.stat().st_ino
    except FileNotFoundError:
        return False
