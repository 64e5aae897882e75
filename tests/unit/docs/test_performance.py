"""The document of performance says what the benchmarks have found, and nothing else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_tables_are_those_of_the_results() -> None:
    command = [sys.executable, "benchmarks/report.py", "--check"]
    run = subprocess.run(command, check=False, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
