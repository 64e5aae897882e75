"""Parity: vectors that were served at free speed, recomputed at their logged positions.

    python benchmarks/parity.py [--vectors 200000] [--speed 150000]

Replays flights of 2013 from April on through the workers of feature_repo, at a multiple of real
time and with nobody waiting for anything, so that vectors lack what is on its way and hold what
came later. When half of the requests are answered, the feature worker is killed and started again.
Then `streamsvc parity` recomputes every vector from the topics, at the position that was logged
with each of its rows. Starts servers of its own in a temporary directory.

What is printed is what the command found; it fails if a value differs. Its time and its peak memory
(VmHWM) are those of the command, libraries included.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd
from machine import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.flights import RunningFlights, all_flights  # noqa: E402
from support.repo import PATIENCE_S  # noqa: E402
from support.stack import Stack  # noqa: E402

from streamsvc.agents.replay import publish  # noqa: E402
from streamsvc.demo import feast_repo  # noqa: E402
from streamsvc.demo.warm_up import Period  # noqa: E402
from streamsvc.local.stack import LocalStack  # noqa: E402
from streamsvc.settings import load_settings  # noqa: E402

DAY_MS = 86_400_000
START_MS = int(pd.Timestamp("2013-04-01T11:00Z").timestamp() * 1_000)


def span_of(vectors: int) -> Period:
    """From START_MS until so many flights have been asked about, with a day of events before."""
    asked = all_flights().scheduled["requested_at"].astype("datetime64[ms, UTC]").astype("int64")
    times = asked[asked >= START_MS].sort_values().to_numpy()
    if len(times) < vectors:
        raise SystemExit(f"2013 has {len(times):,} flights from April on")
    end_ms = int(times[vectors - 1]) + 1
    return Period((end_ms - START_MS) // DAY_MS, START_MS - DAY_MS, START_MS, end_ms)


def serve(repo: RunningFlights, speed: float) -> tuple[int, int, float]:
    """Events and requests that were replayed, and how long it took until all were answered."""
    timeline = repo.timeline()
    requests = timeline.counts()[repo.requests]
    began = time.perf_counter()
    replay = threading.Thread(
        target=publish, args=(repo.settings, timeline), kwargs={"speed": speed}, daemon=True
    )
    patience_s = PATIENCE_S + (repo.span.end_ms - repo.span.start_ms) / 1_000 / speed
    replay.start()
    repo.wait_for_records(repo.predictions, requests // 2, patience_s)
    repo.stop_worker("features", signal.SIGKILL)
    repo.start_worker("features")
    repo.wait_for_records(repo.predictions, requests, patience_s)
    replay.join()
    took = time.perf_counter() - began
    repo.wait_until_applied()
    return len(timeline) - requests, requests, took


def recompute(repo: RunningFlights) -> tuple[dict[str, Any], float, float]:
    """What `streamsvc parity` reports, its seconds and its peak memory in MB."""
    began, peak = time.perf_counter(), 0
    command = [sys.executable, "-m", "streamsvc", "parity", repo.service, "--json"]
    with tempfile.TemporaryFile("w+") as out:
        run = subprocess.Popen(command, cwd=repo.path, env=repo.environment, stdout=out)
        while run.poll() is None:
            status = Path(f"/proc/{run.pid}/status").read_text()
            if "VmHWM:" in status:
                peak = int(status.split("VmHWM:")[1].split()[0])
            time.sleep(0.1)
        took = time.perf_counter() - began
        out.seek(0)
        return json.load(out), took, peak / 1024


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vectors", type=int, default=200_000)
    parser.add_argument("--speed", type=float, default=150_000)
    given = parser.parse_args()
    span = span_of(given.vectors)
    with tempfile.TemporaryDirectory() as directory:
        stack = Path(directory) / "stack"
        stack.mkdir()
        LocalStack(stack).up()
        try:
            with RunningFlights(
                Stack(load_settings(stack), stack),
                Path(directory),
                span,
                STREAMSVC_FRESHNESS_WAIT_MS="0",
                STREAMSVC_DEADLINE_MS="900000",
            ) as repo:
                with feast_repo.quiet_feast(Path(directory) / "feast.log"):
                    repo.prepare()
                events, requests, served_s = serve(repo, given.speed)
                report, took, peak = recompute(repo)
        finally:
            LocalStack(stack).down()
    totals = {
        outcome: sum(feature[outcome] for feature in report["features"])
        for outcome in ("match", "mismatch", "missing", "extra", "unchecked")
    }
    print(machine("feast", "pyarrow", "numba"))
    print(
        f"{span.days} days at {given.speed:,.0f} times real time: {events:,} events and "
        f"{requests:,} requests in {served_s:.0f} s, the feature worker killed once"
    )
    print(
        f"{report['vectors']:,} vectors of {len(report['features'])} features: "
        + ", ".join(f"{count:,} {outcome}" for outcome, count in totals.items())
    )
    print(
        f"stale {report['shares']['stale']:.2%}, ahead {report['shares']['ahead']:.2%}; "
        f"recomputed in {took:.0f} s, peak {peak:,.0f} MB"
    )
    if not report["holds"] or totals["unchecked"] or report["vectors"] != requests:
        raise SystemExit(json.dumps(report["unchecked"] | {"differing": report["features"]}))


if __name__ == "__main__":
    main()
