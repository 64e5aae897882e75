"""How many payments an engine does in a second, in steady state, and what that costs it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from engine import Engine, Run
from job import Payments
from running import Running

__all__ = ["Throughput", "measure"]

LOOK_S, USAGE_S = 0.02, 0.1
PATIENCE_S = 200.0


@dataclass(frozen=True)
class Throughput:
    events_per_second: float
    """From the half of the payments to the last: caches and just-in-time compilers are warm."""
    cpu_us_per_event: float
    """Of the engine's processes, not of broker and store."""
    peak_mb: float
    records_per_event: float
    """Of its output topic; 0 if it has none."""
    verified: str


def measure(engine: Engine, run: Run, payments: Payments) -> Throughput:
    """Run it over the payments of the topic until it has done as many as it is given; verified.

    Raises AssertionError.
    """
    n = engine.events
    launch = engine.prepare(run)
    progress: list[tuple[float, int]] = []
    usage: list[tuple[float, float]] = []
    try:
        with Running(launch.command, launch.env, run.work / "log") as running:
            started = time.perf_counter()
            while not progress or progress[-1][1] < n:
                now = time.perf_counter()
                assert now - started < PATIENCE_S, f"{progress[-1]} after {now - started:.0f} s"
                if not usage or now - usage[-1][0] >= USAGE_S:
                    usage.append((now, running.sample()))
                done = engine.done(run)
                progress.append((time.perf_counter(), done))
                time.sleep(LOOK_S)
            usage.append((time.perf_counter(), running.sample()))
            time.sleep(1.0)  # what it does not wait for, such as rows of the same chunk
        verified = engine.verify(run, payments)
        beside = engine.form in ("rows", "events")
        records = sum(run.admin.end_offsets(run.output).values()) if beside else 0
    finally:
        engine.clean(run)
    # Between two moments at which progress was seen: what is written in large chunks counts whole.
    (half, before), (end, after) = next(p for p in progress if p[1] >= n / 2), progress[-1]
    assert after > before, f"too few events: {after:,} were done at once"
    cpu = np.interp([half, end], [at for at, _ in usage], [used for _, used in usage])
    return Throughput(
        events_per_second=(after - before) / (end - half),
        cpu_us_per_event=float(cpu[1] - cpu[0]) / (after - before) * 1e6,
        peak_mb=running.peak_bytes / 1e6,
        records_per_event=records / len(payments) if records else 0.0,
        verified=verified,
    )
