"""Restore: live tiles/s from a changelog on Kafka, and the memory that they take.

    python benchmarks/restore.py [--tiles 1000000] [--partitions 2] [--rounds 1] [--repeats 3]

Makes changelogs as a worker does: commit by commit, with the rolling snapshot, trimmed, for
`--rounds` more passes over the state after all of it is there. Then a process of its own takes the
partitions over, as often as `--repeats` says, each time a new one.
Every key's features are compared with what its events say before a number is printed. Ten tiles a
key (count, sum, mean, min and max over an hour, a tile a minute).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
import uuid
from pathlib import Path
from statistics import median

import numpy as np
import results
from machine import machine
from report import table

from streamsvc.agents.trimmer import Appended, Trimmer
from streamsvc.columns import BytesColumn, NumericColumn
from streamsvc.definitions.plan import Aggregate, EventSchema, JoinKey, Source, View
from streamsvc.features.rows import EntityRows, column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings, load_settings
from streamsvc.state.changelog import encode_commit, encode_open
from streamsvc.state.partition import ViewPartition
from streamsvc.state.restore import restore_partitions
from streamsvc.state.shuffle import Section, Span
from streamsvc.state.topics import LOG_CONFIG
from streamsvc.state.trimming import Trimming
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.columnar_fetch import install
from streamsvc.transport.process import tune_process
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import EARLIEST, read_to_end

START_MS = 1_700_000_040_000  # on the grid of minutes
TILES_A_KEY = 10
EVENTS = 100_000
SOURCE = Source("s", "t", EventSchema((), "at"), 0, 0, None, None)
FUNCTIONS = ("count", "max", "mean", "min", "sum")
AGGREGATES = tuple(Aggregate(f, "x", f, 3_600_000, 60_000) for f in FUNCTIONS)  # type: ignore[arg-type]
VIEW = View("v", SOURCE, (JoinKey("k", "int64"),), AGGREGATES, {}, None, None, "h")
SPEC = WindowSpec.of(VIEW.aggregates, column_types(VIEW))


def keys(ids: np.ndarray) -> BytesColumn:
    """Entity keys of int64 join keys: a type byte and eight bytes."""
    raw = np.ones((len(ids), 9), np.uint8)
    raw[:, 1:] = np.ascontiguousarray(ids, np.int64).view(np.uint8).reshape(-1, 8)
    start = np.arange(len(ids), dtype=np.int64) * 9
    return BytesColumn(raw.reshape(-1), start, start + 9, np.ones(len(ids), np.bool_))


def values(ids: np.ndarray, tile: int) -> np.ndarray:
    return ids % 1_000 + tile


async def fill(
    producer: BatchProducer, trimmer: Trimmer, topic: str, partition: int, n_keys: int, rounds: int
) -> None:
    """The changelog of a partition."""
    state = ViewPartition(VIEW, SPEC, partition, 1)
    opened = await (await producer.send(topic, partition, [(None, encode_open("filler", 1), ())]))
    trimming = Trimming((opened or 0) + 1)

    async def commit() -> bool:
        made = state.cut(commit=True).commit
        assert made is not None
        records = [(None, r, ()) for r in encode_commit("filler", made, SPEC)]
        last = await (await producer.send(topic, partition, records))
        assert last is not None
        appended = [Appended("v", topic, partition, trimming, made, last, len(records))]
        await trimmer.committed(appended)
        await trimmer.trim(appended)
        return made.ends_round

    def apply(ids: np.ndarray, tile: int) -> None:
        n, at = len(ids), START_MS + tile * 60_000
        offsets = np.arange(n) + state.applied
        x = {"x": NumericColumn(values(ids, tile).astype(np.float64), np.ones(n, np.bool_))}
        rows = EntityRows(keys(ids), np.full(n, at), np.zeros(n, np.int64), offsets, x)
        end = state.applied + n
        span = Span(0, state.applied, end, at, True, 1)
        state.apply_shuffled([Section("v", 1, (span,), rows)], end, 0)

    for tile in range(TILES_A_KEY):
        for low in range(0, n_keys, EVENTS):
            apply(np.arange(low, min(low + EVENTS, n_keys)), tile)
            await commit()
    rng, ended = np.random.default_rng(partition), 0
    while ended < rounds:
        # An eleventh tile for some keys, which then changes, so that there is something to write.
        apply(np.unique(rng.integers(0, n_keys, EVENTS)), TILES_A_KEY)
        ended += await commit()
    assert state.state.stats().tiles >= TILES_A_KEY * n_keys


async def restore(settings: Settings, topic: str) -> dict[str, float]:
    from streamsvc.features.warm import warm

    # As a worker is by the time that it is given partitions.
    warm()
    install()
    tune_process()
    producer = BatchProducer(settings)
    await producer.start()
    begins = Admin(settings).start_offsets(topic)
    before, used = _resident_mb(), time.process_time()
    started = time.perf_counter()
    restored = await restore_partitions(
        settings, producer, topic, "restorer", 1, begins, lambda p: ViewPartition(VIEW, SPEC, p, 1)
    )
    took, used = time.perf_counter() - started, time.process_time() - used
    after = _resident_mb()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    stats = [found.state.state.stats() for found in restored.values()]
    tiles = sum(s.tiles for s in stats)
    for found in restored.values():
        found.state.resume(found.end, 0)
        verify(found.state)
    await producer.stop()
    return {
        "live tiles": tiles,
        "keys": sum(s.keys for s in stats),
        "s": took,
        "tiles/s": tiles / took,
        "CPU s": used,
        "bytes a tile, in arrays": sum(s.bytes for s in stats) / tiles,
        "resident": (after - before) * 1e6 / tiles,
        "process, MB": after,
        "peak, MB": peak,
    }


def verify(state: ViewPartition) -> None:
    """Every key: what ten tiles say, and the events of an eleventh."""
    state.refill()
    (rows,) = state.cut(commit=False).emissions
    ids = rows.keys.data[rows.keys.start[:, None] + np.arange(1, 9)].copy().view(np.int64)[:, 0]
    got = {name: column.values for name, column in rows.values.items()}
    least, more = ids % 1_000, got["count"] - TILES_A_KEY
    assert (more >= 0).all()
    assert (got["min"] == least).all()
    assert (got["max"] == least + np.where(more > 0, TILES_A_KEY, TILES_A_KEY - 1)).all()
    total = TILES_A_KEY * (least + (TILES_A_KEY - 1) / 2) + more * (least + TILES_A_KEY)
    assert np.allclose(got["sum"], total, rtol=1e-9)
    assert np.allclose(got["mean"], total / got["count"], rtol=1e-9)


def _resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


async def make(settings: Settings, topic: str, options: argparse.Namespace) -> int:
    """Fill a topic; returns the bytes of the records that a restore will read."""
    producer, trimmer = BatchProducer(settings), Trimmer(settings, "filler", FeatureMetrics())
    await producer.start()
    n_keys = options.tiles // TILES_A_KEY // options.partitions
    for partition in range(options.partitions):
        await fill(producer, trimmer, topic, partition, n_keys, options.rounds)
    await producer.stop()
    starts = dict.fromkeys(range(options.partitions), EARLIEST)
    size = 0
    async for chunk in read_to_end(settings, topic, starts):
        size += int((chunk.value_end - chunk.value_start).sum())
    return size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--partitions", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--child")
    options = parser.parse_args()
    settings = load_settings()
    if options.child:
        print(json.dumps(asyncio.run(restore(settings, options.child))))
        return
    print(machine("numba", "aiokafka"))
    topic = f"bench-{uuid.uuid4().hex[:8]}.changelog"
    admin = Admin(settings)
    admin.ensure([TopicSpec(topic, options.partitions, LOG_CONFIG)])
    try:
        size = asyncio.run(make(settings, topic, options))
        print(f"changelog of {size / 1e6:,.0f} MB in {options.partitions} partitions")
        child = [sys.executable, __file__, "--child", topic]
        rows = []
        for _ in range(options.repeats):
            done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(table(rows))
        rate = median(row["tiles/s"] for row in rows)
        results.write(
            "restore",
            rows,
            "numba",
            "aiokafka",
            note=f"A changelog of {size / 1e6:,.0f} MB in {options.partitions} partitions, "
            "a new process each time.",
            figures={"restore_tiles_per_s": rate},
        )
    finally:
        admin.delete([topic])


if __name__ == "__main__":
    main()
