from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from streamsvc.local import processes
from streamsvc.local.processes import ProcessId

# Says that it is ready by a byte in its log, then waits for a signal.
SLEEPER = "import signal; print('ready', flush=True); signal.pause()"
STUBBORN = (
    "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "print('ready', flush=True)\n"
    "while True: signal.pause()"
)
# A child in a session of its own, which a signal to the group would miss.
PARENT = (
    "import subprocess, sys, signal\n"
    f"subprocess.Popen([sys.executable, '-c', {SLEEPER!r}], start_new_session=True)\n"
    "signal.pause()"
)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path / "stack")
    processes.stop(str(tmp_path / "stack"), 0.0)


def start(code: str, mark: str, log: Path) -> ProcessId:
    """A process that has reached the point where it prints."""
    process = processes.spawn([sys.executable, "-c", code], dict(os.environ), log, mark)
    while "ready" not in log.read_text():
        assert processes.is_alive(process), log.read_text()
    return process


def test_a_process_is_known_by_pid_and_start(mark: str, tmp_path: Path) -> None:
    process = start(SLEEPER, f"{mark}/a", tmp_path / "log")
    assert processes.identify(process.pid) == process
    assert processes.is_alive(process)
    # Same pid, another start or another boot: the pid was reused.
    assert not processes.is_alive(replace(process, started_ticks=process.started_ticks - 1))
    assert not processes.is_alive(replace(process, boot_id="another"))


def test_a_killed_child_is_gone_though_nobody_waited_for_it(mark: str, tmp_path: Path) -> None:
    process = start(SLEEPER, f"{mark}/a", tmp_path / "log")
    os.kill(process.pid, signal.SIGKILL)
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert not processes.is_alive(process)
    assert processes.marked(mark) == []


def test_stop_ends_children_of_children(mark: str, tmp_path: Path) -> None:
    start(PARENT, f"{mark}/a", tmp_path / "log")
    assert len(processes.marked(mark)) == 2
    assert processes.stop(f"{mark}/a", 30.0)
    assert processes.marked(mark) == []
    assert not processes.stop(f"{mark}/a", 30.0)


def test_stop_kills_what_does_not_end(mark: str, tmp_path: Path) -> None:
    process = start(STUBBORN, f"{mark}/a", tmp_path / "log")
    processes.stop(f"{mark}/a", 0.0)
    assert not processes.is_alive(process)


def test_stop_spares_a_process_that_got_the_pid_of_ours(mark: str, tmp_path: Path) -> None:
    stranger = start(SLEEPER, f"{mark}/stranger", tmp_path / "log")
    stale = replace(stranger, started_ticks=stranger.started_ticks - 5)
    assert not processes.stop(f"{mark}/ours", 0.0, stale)
    assert processes.is_alive(stranger)


def test_a_mark_covers_what_is_below_it_and_nothing_beside_it(mark: str, tmp_path: Path) -> None:
    one = start(SLEEPER, f"{mark}/kafka", tmp_path / "one")
    two = start(SLEEPER, f"{mark}/kafka2", tmp_path / "two")
    assert processes.marked(f"{mark}/kafka") == [one]
    assert set(processes.marked(mark)) == {one, two}
    assert processes.marked(mark[:-1]) == []


def test_output_is_appended(mark: str, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "a.log"
    log.parent.mkdir()
    log.write_text("before\n")
    start(SLEEPER, f"{mark}/a", log)
    assert log.read_text() == "before\nready\n"


def test_there_is_no_process_zero() -> None:
    assert processes.identify(0) is None
