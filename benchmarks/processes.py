"""Who used the processors between two moments: every process of this machine, and its threads."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Usage", "cpu", "cpu_of_all", "since"]

LEAST_SHARE = 0.02
"""Of a processor: who uses less is not named."""

_TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """What all processes had used at one moment."""

    at: float
    """Monotonic seconds."""
    user: dict[int, float]
    system: dict[int, float]
    switches: dict[int, int]
    """How often the threads of a process fell asleep: each was woken as often."""


def cpu(pid: int) -> float:
    """CPU seconds that a process has used."""
    return sum(_times(Path(f"/proc/{pid}/stat")))


def cpu_of_all() -> Usage:
    """What every process has used so far."""
    usage = Usage(time.perf_counter(), {}, {}, {})
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        pid = int(entry.name)
        try:
            user, system = _times(entry / "stat")
            switches = sum(_sleeps(task) for task in (entry / "task").iterdir())
        except OSError:
            continue  # ended just now
        usage.user[pid], usage.system[pid], usage.switches[pid] = user, system, switches
    return usage


def since(before: Usage, names: dict[int, str]) -> Iterable[str]:
    """One line for each process that has used the processors since; `names` of those we know."""
    after = cpu_of_all()
    seconds = after.at - before.at
    shares = {
        pid: (
            (after.user[pid] - before.user.get(pid, 0.0)) / seconds,
            (after.system[pid] - before.system.get(pid, 0.0)) / seconds,
        )
        for pid in after.user
    }
    for pid, (user, system) in sorted(shares.items(), key=lambda item: -sum(item[1])):
        if user + system >= LEAST_SHARE:
            woken = (after.switches[pid] - before.switches.get(pid, 0)) / seconds
            yield (
                f"  {names.get(pid) or _name(pid):<20} {user + system:.2f} s/s "
                f"(system {system:.2f}), woken {woken:,.0f} times/s"
            )


def _times(stat: Path) -> tuple[float, float]:
    fields = stat.read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) * _TICK_S, int(fields[12]) * _TICK_S


def _sleeps(task: Path) -> int:
    for line in (task / "status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    return 0


def _name(pid: int) -> str:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return str(pid)
    program = Path(words[0].decode(errors="replace")).name or str(pid)
    main = next((w for w in (b"kafka.Kafka",) if w in words), b"")
    return f"{program} {main.decode()}".strip()
