"""Backfill: events/s from an archive into the tiles of a view, on one process and on two.

    python benchmarks/backfill.py [--events 8000000] [--declared] [--processes 1 2] [--runs 3]

Makes an archive as the archive worker writes it (4 partitions, `streamsvc_*` columns, zstd), of
100,000 cards; 15 features in three windows with three hops, the longest of which holds all events.
Measured is the work of `streamsvc backfill` between the archive and the changelog: reading,
decoding, windows, tiles, merging, what goes to each state partition encoded, on Dask's processes,
which have started and compiled before. Without a broker, because that is not what is divided. The
tiles of every run are loaded and 300 cards compared with NumPy over the raw events before a rate is
printed.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import results
from machine import machine
from spend import assert_right, spend

from streamsvc.agents.backfill.cluster import open_pool
from streamsvc.agents.backfill.extent import Unit, archive_files, handover_of, units_of
from streamsvc.agents.backfill.tiles import Task, merged, unit_tiles
from streamsvc.archive.names import ArchiveFile, Log
from streamsvc.archive.parquet import Footer, write_file
from streamsvc.archive.rows import archive_schema
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.columns import strings
from streamsvc.definitions.plan import EventField, EventSchema, Source, View
from streamsvc.entity_keys import encode_entity_keys, murmur2
from streamsvc.features.engine import WindowState
from streamsvc.features.tile_batch import TileBatch

PARTITIONS, GROUPS, KEYS = 4, 8, 100_000
START_MS = 1_700_000_000_000
SPAN_MS = 80_000_000
TOPIC_ID = "benchmark0000000000000"


def view_of(directory: Path, declared: bool) -> View:
    fields = tuple(
        EventField(name, (name,), kind)
        for name, kind in (("card", "string"), ("amount", "float64"), ("at", "int64"))
    )
    source = Source(
        "payments",
        "payments",
        EventSchema(fields, "at", "ms"),
        60_000,
        10**15,
        "card" if declared else None,
        str(directory),
    )
    return spend(source, "card")


@cache
def events(n: int) -> tuple[Any, Any, Any, Any]:
    """Cards, amounts, times and partitions of n events in the order of time."""
    rng = np.random.default_rng(0)
    card = rng.integers(0, KEYS, n)
    at = START_MS + np.arange(n) * SPAN_MS // n
    home = murmur2(strings([f"card-{k}" for k in range(KEYS)])) % PARTITIONS
    return card, np.round(rng.gamma(2, 30, n), 2), at, home[card]


def make(view: View, n: int) -> None:
    """Eight files a partition."""
    card, amount, at, partition = events(n)
    names = pa.array([f"card-{k}" for k in range(KEYS)], pa.large_string())
    storage, schema = ArchiveStorage(str(view.source.archive_path)), archive_schema(view.source)
    for p in range(PARTITIONS):
        mine = np.flatnonzero(partition == p)
        for part in np.array_split(np.arange(len(mine)), 8):
            rows = mine[part]
            time_of = pa.array(at[rows], pa.timestamp("ms", "UTC"))
            columns = {
                "card": names.take(pa.array(card[rows])),
                "amount": pa.array(amount[rows]),
                "at": time_of,
                "streamsvc_partition": pa.array(np.full(len(rows), p, np.int32)),
                "streamsvc_offset": pa.array(part),
                "streamsvc_arrived_at": time_of,
                "streamsvc_watermark": pa.array(
                    at[np.maximum(mine[np.maximum(part - 1, 0)], 0)], pa.timestamp("ms", "UTC")
                ),
            }
            first, after = int(part[0]), int(part[-1]) + 1
            file = ArchiveFile(Log.of(TOPIC_ID, p), first, after, "arrived=2023-11-14")
            table = pa.table({f.name: columns[f.name] for f in schema}, schema)
            footer = Footer("payments", int(at[rows[-1]]))
            write_file(storage, file, footer, schema, table.to_batches(131_072))


def work(task: Task, state: int, parts: list[bytes | None]) -> list[bytes]:
    """What `commit_state` does, but for the broker."""
    built = merged(task, state, [part for part in parts if part is not None])
    return [p.to_bytes() for p in built.snapshot().slices(task.spec, 512 * 1024)]


def ready(task: Task, units: list[Unit]) -> None:
    """Compile, or load what was compiled, and import: all the work of a small archive."""
    pieces = [unit_tiles(task, unit) for unit in units]
    for state, found in task.built_by(units).items():
        work(task, state, [pieces[i].tiles.get(state) for i in found])


def task_of(view: View) -> tuple[Task, Callable[[], list[Unit]]]:
    """What is to be made of a view's archive, and what finds the pieces of work."""
    storage, files = archive_files(view.source, TOPIC_ID)
    handover = handover_of(view.source, storage, files, None, None)
    task = Task(view, PARTITIONS, GROUPS if view.shuffled else PARTITIONS, handover)
    return task, lambda: units_of(view.source, storage, files, handover, task.since_ms)


def run(view: View, small: View, n: int, processes: int) -> tuple[float, float, int]:
    """Events a second, CPU seconds of all processes an event, and bytes of tiles."""
    task, find = task_of(view)
    first, first_units = task_of(small)
    with open_pool(None, processes) as pool:
        submit = pool.client.submit
        workers = pool.client.scheduler_info()["workers"]
        pool.client.gather(
            [submit(ready, first, first_units(), workers=[w], pure=False) for w in workers]
        )
        used = sum(pool.client.run(time.process_time).values())
        began = time.perf_counter()
        units = find()
        pieces = [submit(unit_tiles, task, unit, pure=False) for unit in units]
        built = {
            state: submit(
                work,
                task,
                state,
                [submit(lambda p, s: p.tiles.get(s), pieces[i], state) for i in found],
                pure=False,
            )
            for state, found in task.built_by(units).items()
        }
        sizes = [submit(lambda parts: sum(map(len, parts)), b) for b in built.values()]
        written = sum(pool.client.gather(sizes))
        took = time.perf_counter() - began
        used = sum(pool.client.run(time.process_time).values()) - used
        assert sum(p.events for p in pool.client.gather(pieces)) == n
        verify(view, n, {s: b.result() for s, b in built.items()})
    return n / took, used / n, written


def verify(view: View, n: int, built: dict[int, list[bytes]]) -> None:
    card, amount, at, _ = events(n)
    task = Task(view, PARTITIONS, len(built), None)  # type: ignore[arg-type]
    chosen = np.random.default_rng(3).choice(np.unique(card), 300, replace=False)
    order = np.argsort(card, kind="stable")
    cuts = np.searchsorted(card[order], np.arange(KEYS + 1))
    found: dict[bytes | None, dict[str, Any]] = {}
    keys = encode_entity_keys([strings([f"card-{k}" for k in chosen])]).to_bytes_list()
    for parts in built.values():
        state = WindowState(task.spec)
        for raw in parts:
            state.load(TileBatch.from_bytes(raw))
        state.mark_all_changed()
        rows = state.emit()
        position = {k: i for i, k in enumerate(rows.keys.to_bytes_list())}
        for key in keys:
            if (i := position.get(key)) is not None:
                found[key] = {"as_of": int(rows.as_of[i])} | {
                    name: (c.values[i] if c.valid[i] else None)  # type: ignore[union-attr]
                    for name, c in rows.values.items()
                }
    assert len(found) == len(keys)
    for k, key in zip(chosen, keys, strict=True):
        mine = order[cuts[k] : cuts[k + 1]]
        assert_right(view.aggregates, found[key], amount[mine], at[mine], found[key]["as_of"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=8_000_000)
    parser.add_argument("--processes", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--declared", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        view, small = (view_of(Path(directory) / d, given.declared) for d in ("all", "small"))
        make(view, given.events)
        make(small, 10_000)
        print(machine("distributed", "pyarrow", "numba"))
        found: dict[int, list[tuple[float, float]]] = {p: [] for p in given.processes}
        # In turns, so that whatever else the machine does meets all of them.
        for _ in range(given.runs):
            for processes, runs in found.items():
                rate, cpu, written = run(view, small, given.events, processes)
                runs.append((rate, cpu))
    how = "by the declared key" if given.declared else "behind a shuffle"
    print(
        f"{how}: {given.events:,} events, {KEYS:,} cards, {len(view.aggregates)} features, "
        f"{written / 1e6:,.0f} MB of tiles; verified; the middle of {given.runs} runs"
    )
    rows = []
    for processes, runs in found.items():
        rates, cpus = zip(*runs, strict=True)
        rows.append(
            {
                "processes": processes,
                "events/s": median(rates),
                "least": min(rates),
                "most": max(rates),
                "CPU, µs an event": median(cpus) * 1e6,
            }
        )
        print(
            f"{processes} processes: {median(rates):,.0f} events/s "
            f"({min(rates):,.0f} to {max(rates):,.0f}), {median(cpus) * 1e6:.2f} us of CPU an event"
        )
    rate = {row["processes"]: row["events/s"] for row in rows}
    figures = {"backfill_events_per_core_s": rate[1]} if 1 in rate else {}
    if rate.keys() >= {1, 2}:
        figures["backfill_speedup"] = rate[2] / rate[1]
    results.write(
        "backfill",
        rows,
        "distributed",
        "pyarrow",
        "numba",
        note=f"{given.events:,} events of {KEYS:,} cards, {len(view.aggregates)} features, {how}; "
        f"the middle of {given.runs} runs.",
        figures=figures,
    )


if __name__ == "__main__":
    main()
