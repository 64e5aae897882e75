"""All benchmarks, or their short form, on servers of their own; then the tables and plots.

    python benchmarks/bench.py [--full] [--only NAME …]

`make bench` and `make bench-full`. The short form is for a quarter of an hour on two cores, and
says less: fewer keys and events, one run where the full form takes the middle of several, and no
other engines, which take minutes each. Each benchmark is a process of its own, which is stopped
with all that it has started when its time is over. One that fails leaves its old results, and the
others go on; the exit code is 1 then.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from streamsvc.local.stack import LocalStack

HERE = Path(__file__).parent
SHORT_S, FULL_S = 240, 3_600
"""No benchmark may take longer."""

# In the order of the document, the long ones last.
SHORT: dict[str, str] = {
    "decoding": "decoding.py",
    "engine": "engine.py --keys 20000",
    "engine_scale": "engine_scale.py --keys 1000 10000 100000 1000000 --runs 1",
    "engine_shape": "engine_shape.py --keys 2000",
    "store": "store.py --feast --keys 100000 --feast-keys 2000 --rounds 3",
    "features": "features.py --events 1000000",
    "scoring_against": "scoring_against.py --requests 100000",
    "scoring_latency": "scoring.py latency --declared --rate 500 1000 --seconds 8",
    "restore": "restore.py --tiles 500000 --repeats 1",
    "backfill": "backfill.py --runs 1",
    "capacity": "capacity.py",
}
FULL: dict[str, str] = {
    "decoding": "decoding.py",
    "engine": "engine.py",
    "engine_scale": "engine_scale.py",
    "engine_windows": "engine_scale.py --windows",
    "engine_shape": "engine_shape.py",
    "store": "store.py --feast --keys 1000000",
    "features": "features.py --events 4000000",
    "features_views": "features.py direct --views 1 2 5 10 20",
    "features_processes": "features.py --events 4000000 --processes 1 2",
    "scoring_throughput": "scoring.py throughput --delivery both",
    "scoring_against": "scoring_against.py",
    "scoring_latency": "scoring.py latency --declared --rate 250 500 1000 2000 5000 10000",
    "scoring_latency_shuffled": "scoring.py latency --rate 250 500 1000 2000",
    "caches": "caches.py",
    "engines": "engines/run.py throughput",
    "engines_latency": "engines/run.py latency",
    "restore": "restore.py",
    "backfill": "backfill.py --events 24000000",
    "steady": "steady.py",
    "capacity": "capacity.py",
}
ALONE = ("engines", "engines_latency", "backfill", "capacity")
"""They start servers of their own, or need none: a broker beside them would only take from them.
They come when the others are done."""


def run(name: str, command: str, directory: Path, limit_s: int) -> bool:
    """One benchmark in the stack's directory; whether it has succeeded."""
    script, *arguments = command.split()
    began = time.monotonic()
    print(f"── {name}: {command}", flush=True)
    child = subprocess.Popen(
        [sys.executable, str(HERE / script), *arguments], cwd=directory, start_new_session=True
    )
    try:
        child.wait(limit_s)
    except subprocess.TimeoutExpired:
        print(f"{name} has not ended within {limit_s} s", flush=True)
    finally:
        if child.poll() is None or child.returncode:
            _stop(child)
    print(f"── {name}: {time.monotonic() - began:.0f} s, exit code {child.returncode}", flush=True)
    return child.returncode == 0


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End it and what it has started, which shares its process group."""
    for each in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(child.pid, each)
            child.wait(15)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=sorted(SHORT | FULL))
    options = parser.parse_args()
    chosen = FULL if options.full else SHORT
    if options.only:
        chosen = {name: command for name, command in chosen.items() if name in options.only}
    limit_s = FULL_S if options.full else SHORT_S
    beside = {name: command for name, command in chosen.items() if name not in ALONE}
    alone = {name: chosen[name] for name in ALONE if name in chosen}
    # So that Ctrl+C and `kill` both go through what stops the servers.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory() as directory:
        stack = LocalStack(Path(directory))
        failed: list[str] = []
        try:
            if beside:
                stack.up()
            failed += [n for n, c in beside.items() if not run(n, c, Path(directory), limit_s)]
        finally:
            stack.down(volumes=True)
        failed += [n for n, c in alone.items() if not run(n, c, Path(directory), limit_s)]
    subprocess.run([sys.executable, str(HERE / "report.py")], check=True)
    if failed:
        sys.exit(f"Failed: {', '.join(failed)}; their results are those of an earlier run.")


if __name__ == "__main__":
    main()
