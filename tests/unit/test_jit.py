"""A kernel runs what its source says, also when the source of what it calls has changed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

CALLER = """
from pathlib import Path
from streamsvc.jit import compiled, digest
from helper import number

VERSION = digest(Path(__file__).parent)
answer = compiled(lambda: number() + 1, VERSION)
print(answer(), answer.stats.cache_hits[()] if answer.stats.cache_hits else 0)
"""
HELPER = """
import numba
number = numba.njit(lambda: {number})
"""


def answers(directory: Path) -> list[str]:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(directory / "cache")}
    done = subprocess.run(
        [sys.executable, directory / "caller.py"],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_an_edit_of_another_file_is_seen(tmp_path: Path) -> None:
    (tmp_path / "caller.py").write_text(CALLER)
    (tmp_path / "helper.py").write_text(HELPER.format(number=1))
    assert answers(tmp_path) == ["2", "0"]
    assert answers(tmp_path) == ["2", "1"]
    (tmp_path / "helper.py").write_text(HELPER.format(number=7))
    assert answers(tmp_path) == ["8", "0"]
