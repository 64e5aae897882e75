"""Child processes that outlive the command that started them.

A process is known by its pid *and* the instant it started, because pids are reused. Everything that
belongs to a stack also carries a mark in its environment, children of children included: with it
`down` finds what a crash or a lost pid file left behind. Linux only (`/proc`).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["ProcessId", "identify", "is_alive", "marked", "send", "spawn", "stop"]

MARK = "_STREAMSVC_STACK"
"""Environment variable of every process of a stack. Not a setting, hence the underscore."""

_POLL_S = 0.05
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for ever: no other has had, or will have, the same three values."""

    pid: int
    started_ticks: int
    """Clock ticks between boot and the start of the process (field 22 of `/proc/<pid>/stat`)."""
    boot_id: str


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now; None if there is none, or only its remains."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
        boot_id = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name stands in parentheses and may hold anything, parentheses too.
    fields = stat.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        _reap(pid)
        return None
    return ProcessId(pid, int(fields[19]), boot_id)


def is_alive(process: ProcessId) -> bool:
    """Whether exactly this process still runs."""
    return identify(process.pid) == process


def spawn(argv: Sequence[str], environment: Mapping[str, str], log: Path, mark: str) -> ProcessId:
    """Start a process in a session of its own; what it prints is appended to `log`.

    A session of its own keeps Ctrl-C in the terminal for the command that the user runs.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        {**environment, MARK: mark},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        # A process inherits ignored signals; the servers must hear these.
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGPIPE],
    )
    return identify(pid) or ProcessId(pid, -1, "")


def marked(mark: str) -> list[ProcessId]:
    """Every process that was started with this mark, or with one below it (`<mark>/…`)."""
    needle = f"\0{MARK}={mark}".encode()
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            environment = b"\0" + (entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        at = environment.find(needle)
        if at >= 0 and environment[at + len(needle) :][:1] in (b"\0", b"/", b""):
            process = identify(int(entry.name))
            if process is not None:
                found.append(process)
    return found


def stop(mark: str, grace_s: float, known: ProcessId | None = None) -> bool:
    """End `known` and every process with this mark: SIGTERM, and SIGKILL after `grace_s` seconds.

    Returns, once none is left, whether there was one. Processes are looked up anew each time, so
    one that was being started meanwhile does not get away.
    """
    first = send(signal.SIGTERM, mark, known)
    deadline = time.monotonic() + grace_s
    left = first
    while left:
        time.sleep(_POLL_S)
        late = time.monotonic() > deadline
        left = send(signal.SIGKILL if late else None, mark, known)
    return first > 0


def send(number: signal.Signals | None, mark: str, known: ProcessId | None = None) -> int:
    """Send a signal (None: none) to `known` and every process with this mark; how many there are.

    `known` counts only while it is still that process, not another that got its pid.
    """
    found = set(marked(mark))
    if known is not None and is_alive(known):
        found.add(known)
    for process in found:
        if number is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)
    return len(found)


def _reap(pid: int) -> None:
    """Forget a dead child of ours; a no-op for anybody else's."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
