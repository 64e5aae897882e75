"""What was found, as the rows of `results/engines.json` and `results/engines_latency.json`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from typing import Any

import environment
import results
from engine import Engine
from latency import Latency
from throughput import Throughput

__all__ = ["latency_row", "throughput_row", "write_latency", "write_throughput"]

Rows = Sequence[dict[str, Any]]

OURS = "streamsvc"
RING = "Kafka Streams, ring in memory"
PYTHON = ("Quix", "Faust", "Bytewax", "Feast loop")
OUTPUT = {
    "records": "a record per event",
    "store": "latest values in a store",
    "rows": "latest values in a store, a record per row",
    "events": "latest values in a store, a record per event",
}

NOTE = (
    "100,000 users, 4 partitions, JSON, a window of 10 minutes by the minute (count, sum, mean, "
    "min, max), one process, broker and store on the same 2 cores. Rates are of the second half of "
    "the events, so that caches and compilers are warm; an engine that is slow is given fewer. CPU "
    "and memory are those of the engine's processes alone. `times` is streamsvc's rate in the same "
    "run over the engine's, `times, by CPU` the same for what a second of CPU does, which other "
    "work on the machine changes less."
)
LATENCY_NOTE = (
    "From the moment that an event is handed to the producer, which waits a millisecond for more, "
    "at more than 1,000 events/s five, until its features can be read: of streamsvc in the online "
    "store, of the Feast loop in the prediction that it publishes, of the others in a record. What "
    "lets an engine answer sooner is set in its script. Nine seconds at each rate, of which the "
    "last six count."
)


def throughput_row(engine: Engine, found: Throughput) -> dict[str, Any]:
    return {
        "engine": engine.name,
        "version": _version(engine),
        "output": OUTPUT[engine.form],
        "window": engine.window,
        "guarantee": engine.guarantee,
        "events": engine.events,
        "events/s": round(found.events_per_second),
        "CPU µs an event": round(found.cpu_us_per_event, 2),
        "events a CPU second": round(1e6 / found.cpu_us_per_event),
        "peak MB": round(found.peak_mb),
        "records an event": round(found.records_per_event, 3) or "",
        "verified": found.verified,
    }


def latency_row(engine: Engine, rate: int, found: Latency) -> dict[str, Any]:
    return {
        "engine": engine.name,
        "events/s": rate,
        "p50 ms": round(found.p50_ms, 1),
        "p99 ms": round(found.p99_ms, 1),
        "p99.9 ms": round(found.p999_ms, 1),
        "did not come": found.missing,
        "guarantee": engine.guarantee,
    }


def write_throughput(rows: Rows, *, keep: bool) -> None:
    """With how many times streamsvc does what each engine does, in the same run."""
    ours = next((row for row in rows if row["engine"] == OURS), None)
    if ours is not None:
        rows = [
            {
                **row,
                "times": round(ours["events/s"] / row["events/s"], 2),
                "times, by CPU": round(row["CPU µs an event"] / ours["CPU µs an event"], 2),
            }
            for row in rows
        ]
    rows = _merged("engines", rows, ("engine",), keep=keep)
    rows = sorted(rows, key=lambda row: -row["events/s"])
    by_name = {row["engine"]: row for row in rows}
    figures = {}
    if OURS in by_name:
        figures["job_events_per_s"] = by_name[OURS]["events/s"]
    if RING in by_name:
        figures["job_times_kafka_streams_ring"] = by_name[RING].get("times")
    python = [row["times"] for row in rows if row["engine"].startswith(PYTHON) and "times" in row]
    if python:
        figures["job_times_best_python"] = min(python)
    if zipf := by_name.get(f"{OURS}, 15 features, Zipf(1.1) keys"):
        figures["zipf_events_per_s"] = zipf["events/s"]
    if updates := by_name.get(f"{OURS}, payments as records"):
        figures["json_updates_per_s"] = updates["events/s"]
    if (shuffled := by_name.get(f"{OURS}, shuffled")) and "times" in shuffled:
        figures["shuffled_share"] = round(1 / shuffled["times"], 2)
    _write("engines", rows, NOTE, {k: v for k, v in figures.items() if v is not None})


def write_latency(rows: Rows, *, keep: bool) -> None:
    rows = _merged("engines_latency", rows, ("engine", "events/s"), keep=keep)
    p99 = {(row["engine"], row["events/s"]): row["p99 ms"] for row in rows}
    names = {
        "stored_p99_1k": (OURS, 1_000),
        "stored_p99_10k": (OURS, 10_000),
        "stored_shuffled_p99_1k": (f"{OURS}, shuffled", 1_000),
        "stored_shuffled_p99_10k": (f"{OURS}, shuffled", 10_000),
    }
    figures = {name: p99[of] for name, of in names.items() if of in p99}
    _write("engines_latency", rows, LATENCY_NOTE, figures)


def _merged(name: str, rows: Rows, key: tuple[str, ...], *, keep: bool) -> Rows:
    """The rows, and with `keep` those of an earlier run that these do not replace."""
    if not keep:
        return rows
    found = results.read_all().get(name, {}).get("rows", [])
    fresh = {tuple(row[k] for k in key) for row in rows}
    return [*(row for row in found if tuple(row[k] for k in key) not in fresh), *rows]


def _write(name: str, rows: Rows, note: str, figures: dict[str, float]) -> None:
    command = shlex.join(["python", "benchmarks/engines/run.py", *sys.argv[1:]])
    results.write(
        name, rows, "confluent-kafka", "numpy", note=note, figures=figures, command=command
    )


def _version(engine: Engine) -> str:
    return next(iter(environment.versions(engine.folder).values()))
