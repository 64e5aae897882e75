"""Feature worker: events/s from Kafka into the online store, with state committed.

    python benchmarks/features.py [direct] [shuffled] [--events 2000000] [--keys 100000]
        [--views 1 5 20] [--processes 1 2]

One worker process, or so many, broker and store on the same machine, 15 windowed features of a view
in three windows with three hops. Every run checks 500 random entities against NumPy before it
prints a number. The rate is taken between 20 % and 100 % of the events, from the positions that the
worker publishes in the store: an event counts once its row is readable.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import results
from machine import machine
from processes import cpu
from spend import assert_right, spend

from streamsvc.columns import strings
from streamsvc.definitions.plan import EventField, EventSchema, Plan, Source, View
from streamsvc.entity_keys import encode_entity_keys, murmur2
from streamsvc.local.stack import LocalStack
from streamsvc.settings import Settings, load_settings
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers
from streamsvc.store.reader import RowReader
from streamsvc.store.row import RowLayout
from streamsvc.store.sweep import delete_project
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.producer import BatchProducer

PARTITIONS = 4
START_MS = 1_700_000_000_000


def plan(topic: str, declared: bool, views: int) -> Plan:
    fields = tuple(
        EventField(name, (name,), kind)
        for name, kind in (("user", "string"), ("amount", "float64"), ("ts", "int64"))
    )
    schema = EventSchema(fields, "ts", "ms")
    source = Source("events", topic, schema, 60_000, 10**15, "user" if declared else None, None)
    view = spend(source, "user")
    made = tuple(replace(view, name=f"spend{i}") for i in range(views))
    return Plan(topic, (source,), made, (), (), ())


def events(n: int, keys: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, keys, n), np.round(rng.gamma(2, 30, n), 2), START_MS + np.arange(n)


async def publish(settings: Settings, topic: str, n: int, keys: int) -> None:
    users, amounts, times = events(n, keys)
    names = [f"u{k}" for k in range(keys)]
    home = murmur2(strings(names)) % PARTITIONS
    producer = BatchProducer(settings)
    await producer.start()
    acks = []
    for low in range(0, n, 50_000):
        part = slice(low, low + 50_000)
        where = home[users[part]]
        for p in range(PARTITIONS):
            rows = np.flatnonzero(where == p) + low
            records = [
                (
                    names[u].encode(),
                    b'{"user":"u%d","amount":%.2f,"ts":%d}' % (u, a, t),
                    (),
                )
                for u, a, t in zip(
                    users[rows].tolist(), amounts[rows].tolist(), times[rows].tolist(), strict=True
                )
            ]
            acks.append(await producer.send(topic, p, records))
    await asyncio.gather(*acks)
    await producer.stop()


def verify(
    settings: Settings, running: Plan, sent: tuple[np.ndarray, np.ndarray, np.ndarray], keys: int
) -> None:
    """Compare 500 random entities with what NumPy makes of users, amounts and times."""
    view = running.views[-1]
    users, amounts, times = sent
    seen = np.unique(users)
    sample = np.random.default_rng(1).choice(seen, min(500, len(seen)), replace=False)
    layout = RowLayout(dict(view.feature_types))
    column = encode_entity_keys([strings([f"u{k}" for k in sample])])
    rows = RowReader(connect(settings), running.project).read(view.name, layout, column)
    served = {name: column.to_pylist() for name, column in rows.values.items()}
    order = np.argsort(users, kind="stable")
    cuts = np.searchsorted(users[order], np.arange(keys + 1))
    for i, key in enumerate(sample):
        mine = order[cuts[key] : cuts[key + 1]]
        at = max(int(rows.as_of[i]), int(times[mine].max(initial=0)))
        got = {name: values[i] for name, values in served.items()}
        assert_right(view.aggregates, got, amounts[mine], times[mine], at)


def applied(client: object, running: Plan, settings: Settings) -> int:
    """Events that are in the rows of every view."""
    return min(applied_by(client, running, settings, view) for view in running.views)


def applied_by(client: object, running: Plan, settings: Settings, view: View) -> int:
    topic = running.sources[0].topic
    groups = range(settings.key_groups if view.shuffled else PARTITIONS)
    found: dict[int, int] = {}
    for marker in read_markers(client, running.project, view.name, groups):  # type: ignore[arg-type]
        for p, offset in (marker.applied.get(topic, {}) if marker else {}).items():
            # Behind a shuffle an event counts once every group has its partition's prefix.
            found[p] = min(found.get(p, offset), offset) if view.shuffled else offset
    return sum(found.values())


def measure(
    settings: Settings, mode: str, n: int, keys: int, views: int, processes: int
) -> dict[str, float]:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    running = plan(topic, mode == "direct", views)
    Admin(settings).ensure([TopicSpec(topic, PARTITIONS)])
    asyncio.run(publish(settings, topic, n, keys))
    log = tempfile.NamedTemporaryFile("w", suffix=".log")  # noqa: SIM115 - closed below
    command = [sys.executable, __file__, "--child", mode, topic, "--views", str(views)]
    children = [subprocess.Popen(command, stderr=log) for _ in range(processes)]
    client = connect(settings)
    servers = {s.name: s.pid for s in LocalStack(Path()).status() if s.pid is not None}
    samples: list[tuple[float, int, list[float]]] = []
    try:
        while not samples or samples[-1][1] < n:
            for child in children:
                assert child.poll() is None, Path(log.name).read_text()[-3000:]
            used = [sum(cpu(c.pid) for c in children), *(cpu(pid) for pid in servers.values())]
            samples.append((time.perf_counter(), applied(client, running, settings), used))
            time.sleep(0.05)
        time.sleep(1)
        verify(settings, running, events(n, keys), keys)
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait(30)
        log.close()
        delete_project(client, running.project)
    steady = [s for s in samples if s[1] >= 0.2 * n]
    (t0, n0, c0), (t1, n1, c1) = steady[0], steady[-1]
    each = [(after - before) / (n1 - n0) * 1e6 for before, after in zip(c0, c1, strict=True)]
    return {
        "events/s": (n1 - n0) / (t1 - t0),
        **{
            f"{who} CPU, µs an event": us
            for who, us in zip(("worker", *servers), each, strict=True)
        },
    }


def child(mode: str, topic: str, settings: Settings, views: int) -> None:
    from streamsvc.agents import run_features
    from streamsvc.transport.app import run

    run(run_features.run_views(settings, plan(topic, mode == "direct", views)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("modes", nargs="*", default=["direct", "shuffled"])
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--views", type=int, nargs="+", default=[1])
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    settings = load_settings()
    if options.child:
        child(options.modes[0], options.modes[1], settings, options.views[0])
        return
    print(machine("numba", "aiokafka", "redis"))
    rows = []
    for mode, views, processes in product(options.modes, options.views, options.processes):
        result = measure(settings, mode, options.events, options.keys, views, processes)
        print(
            f"{mode:9} {result['events/s']:>10,.0f} events/s "
            f"{result['worker CPU, µs an event']:.2f} us of worker CPU an event "
            f"({options.events:,} events, {options.keys:,} keys, 15 features in each of {views} "
            f"views, {processes} processes, verified)"
        )
        rows.append({"path": mode, "views": views, "processes": processes, **result})
    write(rows, options)


def write(rows: list[dict[str, Any]], options: argparse.Namespace) -> None:
    many = "views" if len(options.views) > 1 else "processes"
    scaled = len(options.views) > 1 or len(options.processes) > 1
    plot = {"title": f"Events/s by {many}", "x": many, "y": "events/s", "by": "path"}
    results.write(
        f"features_{many}" if scaled else "features",
        rows,
        "numba",
        "aiokafka",
        "redis",
        note=f"{options.events:,} events of {options.keys:,} uniform keys, 15 features a view, "
        f"{PARTITIONS} partitions; an event counts once its rows are readable.",
        plots=[plot] if scaled else [],
    )


if __name__ == "__main__":
    main()
