"""One job, many engines: events/s, CPU, memory and latency, side by side on the same topic.

    python benchmarks/engines/run.py list
    python benchmarks/engines/run.py throughput [ENGINE …] [--share 0.1] [--add]
    python benchmarks/engines/run.py latency [ENGINE …] [--rates 1000 10000] [--add]

ENGINE is a name that `list` prints, or a part of names; all by default. Broker and store are
started for the run and share the machine with the engine. Each engine is installed into an
environment of its own under the cache, and its output is held against the oracle before its number
is printed. With --add the results keep the engines that this run leaves out.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import traceback
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))

import environment
import latency
import tables
import throughput
from catalogue import ENGINES
from engine import Engine, Run
from job import KEYS, Payments, generate
from machine import machine
from publishing import fill

from streamsvc.local.stack import LocalStack
from streamsvc.settings import Settings, load_settings

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "streamsvc-bench"
MEASURED_S = 6.0
"""Of a latency, after the warm-up."""


@contextmanager
def servers(cache: Path) -> Iterator[Settings]:
    """Broker and store for the run; the payments stay with them for the next one."""
    directory = cache / "servers"
    directory.mkdir(parents=True, exist_ok=True)
    stack = LocalStack(directory)
    ours = not any(status.pid for status in stack.status())
    stack.up(["kafka", "valkey"])
    try:
        yield load_settings(directory)
    finally:
        if ours:
            stack.down()


@contextmanager
def directory_of(tag: str) -> Iterator[Path]:
    """An empty one, for as long as the run takes."""
    work = Path(tempfile.mkdtemp(prefix=tag))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


def new_tag() -> str:
    return f"engines-{uuid.uuid4().hex[:8]}"


def backlog(settings: Settings, zipf: float, events: int) -> tuple[str, Payments]:
    """The topic of payments that engines work off; they are published if they are not there."""
    payments = generate(events, zipf=zipf)
    topic = f"payments-{len(payments)}-{KEYS}" + (f"-zipf{zipf:g}" if zipf else "")
    fill(settings, topic, payments)
    return topic, payments


def throughputs(
    settings: Settings, cache: Path, engines: Sequence[Engine], events: int
) -> Iterator[dict[str, object]]:
    """One row an engine; one that fails is told about, and has none. `events` are published."""
    topics = {zipf: backlog(settings, zipf, events) for zipf in sorted({e.zipf for e in engines})}
    for engine in engines:
        topic, payments = topics[engine.zipf]
        ends, tag = tuple(payments.first(engine.events).ends()), new_tag()
        try:
            with directory_of(tag) as work:
                run = Run(settings, cache, work, tag, topic, ends)
                found = throughput.measure(engine, run, payments)
        except (AssertionError, environment.MissingError):
            traceback.print_exc()
            continue
        print(
            f"{engine.name:40} {found.events_per_second:>10,.0f} events/s "
            f"{found.cpu_us_per_event:>8.2f} us of CPU each {found.peak_mb:>6,.0f} MB "
            f"({found.verified} verified)",
            flush=True,
        )
        yield tables.throughput_row(engine, found)


def latencies(
    settings: Settings, cache: Path, engines: Sequence[Engine], rates: Sequence[int]
) -> Iterator[dict[str, object]]:
    """One row an engine and rate that it can hold."""
    for engine in engines:
        for rate in (rate for rate in engine.rates if not rates or rate in rates):
            tag = new_tag()
            try:
                with directory_of(tag) as work:
                    run = Run(settings, cache, work, tag, f"{tag}-in", latency=True)
                    found = latency.measure(engine, run, rate, MEASURED_S)
            except (AssertionError, environment.MissingError):
                traceback.print_exc()
                continue
            print(
                f"{engine.name:40} at {rate:>6,} events/s: p50 {found.p50_ms:.1f}, "
                f"p99 {found.p99_ms:.1f}, p99.9 {found.p999_ms:.1f} ms; {found.missing} did not "
                f"come ({found.verified} verified)",
                flush=True,
            )
            yield tables.latency_row(engine, rate, found)


def choose(engines: Sequence[Engine], parts: Sequence[str]) -> list[Engine]:
    """Those that have one of these names, or of which one of these is a part; all of none."""
    names = {engine.name for engine in engines}
    return [
        engine
        for engine in engines
        if not parts
        or any(part == engine.name or (part not in names and part in engine.name) for part in parts)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["throughput", "latency", "list"])
    parser.add_argument("engines", nargs="*", help="parts of their names")
    parser.add_argument("--rates", type=int, nargs="+", default=[], help="of those they can hold")
    parser.add_argument("--share", type=float, default=1.0, help="of the events, for a short look")
    parser.add_argument("--add", action="store_true", help="keep the results of other engines")
    parser.add_argument("--cache", type=Path, default=CACHE)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that everything ends, too
    # Some machines set it, and each engine would compile all that it imports in every run.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    engines = [replace(e, events=int(e.events * given.share)) for e in ENGINES]
    chosen = choose(engines, given.engines)
    if given.what == "list":
        print("\n".join(engine.name for engine in chosen))
        return
    with servers(given.cache) as settings:
        print(machine("confluent-kafka", "numpy"))
        events = max(engine.events for engine in engines)
        found: list[dict[str, object]] = []
        try:  # what was found by then is told, however it ends
            if given.what == "throughput":
                found.extend(throughputs(settings, given.cache, chosen, events))
            else:
                found.extend(latencies(settings, given.cache, chosen, given.rates))
        finally:
            write = {"throughput": tables.write_throughput, "latency": tables.write_latency}
            write[given.what](found, keep=given.add)


if __name__ == "__main__":
    main()
