from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest

from streamsvc.local.paths import StackPaths
from streamsvc.local.processes import ProcessId
from streamsvc.local.state import Running, StackState

RUNNING = Running(ProcessId(7, 70, "boot"), {"redis": 6379})


def test_ports_outlive_the_pid_file(tmp_path: Path) -> None:
    state = StackState(StackPaths(tmp_path))
    assert state.running("valkey") is None
    assert state.last_ports("valkey") == {}
    state.started("valkey", RUNNING)
    assert state.running("valkey") == RUNNING
    assert state.process("valkey") == RUNNING.process
    state.stopped("valkey")
    state.stopped("valkey")
    assert state.running("valkey") is None
    assert state.last_ports("valkey") == {"redis": 6379}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 7}', '{"pid": 7, "ports": 3}'])
def test_a_damaged_pid_file_is_as_good_as_none(tmp_path: Path, content: str) -> None:
    paths = StackPaths(tmp_path)
    paths.pid("valkey").parent.mkdir(parents=True)
    paths.pid("valkey").write_text(content)
    assert StackState(paths).running("valkey") is None


def test_the_reason_is_kept_beside_the_ports(tmp_path: Path) -> None:
    state = StackState(StackPaths(tmp_path))
    state.started("valkey", RUNNING)
    state.in_process_because = "no wheel"
    assert StackState(StackPaths(tmp_path)).in_process_because == "no wheel"
    state.in_process_because = None
    assert state.in_process_because is None
    assert state.last_ports("valkey") == {"redis": 6379}


def _hold(repo: Path, entered: multiprocessing.Queue[str], name: str) -> None:
    with StackState(StackPaths(repo)).exclusive():
        entered.put(name)


def test_one_at_a_time_even_when_the_directory_is_removed_meanwhile(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    entered: multiprocessing.Queue[str] = context.Queue()
    other = context.Process(target=_hold, args=(tmp_path, entered, "other"))
    with StackState(StackPaths(tmp_path)).exclusive():
        other.start()
        shutil.rmtree(StackPaths(tmp_path).root)
        StackPaths(tmp_path).root.mkdir()
    assert entered.get(timeout=60) == "other"
    other.join()
    assert other.exitcode == 0
