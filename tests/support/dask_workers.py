"""A Dask cluster as users have it: a scheduler and workers, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PATIENCE_S = 120


@contextmanager
def cluster(directory: Path) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers of one thread; gives the address and the workers."""
    dask, here = [sys.executable, "-m", "dask"], ["--host", "127.0.0.1"]
    where = directory / "scheduler.json"
    known = ["--scheduler-file", str(where), "--no-dashboard"]
    with (directory / "dask.log").open("w") as log:

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            return subprocess.Popen([*dask, *arguments], cwd=directory, stdout=log, stderr=log)

        scheduler = start("scheduler", "--port", "0", *here, *known)
        worker = ["worker", *known, "--nthreads", "1", "--no-nanny", *here]
        workers = [start(*worker) for _ in range(2)]
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not where.exists():
            assert time.monotonic() < deadline, (directory / "dask.log").read_text()
            time.sleep(0.05)
        yield json.loads(where.read_text())["address"], workers
    finally:
        for process in (scheduler, *workers):
            process.kill()
            process.wait(30)
