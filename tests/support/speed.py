"""What the hot paths cost beside library calls that do work of the same kind, in the same run.

    make speed ARGS="[--write] [--processes 9] [case …]"

The machine's speed cancels in a ratio, its noise in the least of many turns of both sides, taken
one after the other. CPU time of this thread, so that waiting for a processor does not count. Where
a process's memory happens to lie changes a ratio by a quarter, for as long as it lives: so it takes
the median over several processes.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import orjson
from aiokafka.record.memory_records import MemoryRecords
from support.record_batches import Record, batch
from support.scoring import predictions

from streamsvc.columns import BytesColumn, NumericColumn, numeric, strings
from streamsvc.definitions.plan import Aggregate, Source
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.events.decode import Decoder
from streamsvc.events.schema import parse_schema
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec
from streamsvc.scoring.records import prediction_ids, prediction_records
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.transport.fetch_decoding import chunks_of_fetch

__all__ = ["CASES", "LOSS", "baseline", "measured", "processor"]

BASELINE = Path(__file__).with_name("speed.json")
LOSS = 1.3
"""Times the baseline's ratio that are a loss."""
TURNS = 20
LEAST_S = 0.1
"""So many turns, and for so long."""

N = 500
Work = Callable[[], object]


def parsing() -> tuple[Work, Work]:
    """A fetched record batch as columns; aiokafka's record objects."""
    raw = batch([Record(i, i, b"key-%d" % i, b"x" * 60) for i in range(8 * N)])

    def stock() -> object:
        records, found = MemoryRecords(raw), []
        while records.has_next():
            found += list(records.next_batch())
        return found

    return lambda: chunks_of_fetch("t", 0, raw, 0, None), stock


def decoding() -> tuple[Work, Work]:
    """JSON to columns; orjson's objects."""
    ddl = "id STRING, card STRING, shop BIGINT, amount DOUBLE, at BIGINT"
    rows = [
        orjson.dumps({"id": f"p{i}", "card": f"c{i % 97}", "shop": i, "amount": i / 4, "at": i})
        for i in range(N)
    ]
    source = Source("s", "t", parse_schema(ddl, "at", "ms"), 0, 10**15, None, None)
    decoder, values = Decoder(source, max_record_bytes=1 << 20), strings(rows)
    stamps = np.full(N, -1, np.int64)
    return lambda: decoder.decode(values, stamps), lambda: [orjson.loads(row) for row in rows]


def engine() -> tuple[Work, Work]:
    """A chunk into its windows, its rows and its tiles out; a sort and sums by key with NumPy."""
    functions = ("count", "sum", "mean", "min", "max")
    windows = ((60_000, 5_000), (360_000, 20_000))
    made = [Aggregate(f"{f}{w}", "x", f, w, h) for w, h in windows for f in functions]  # type: ignore[arg-type]
    state = WindowState(WindowSpec.of(made, {"x": "float64"}))
    rng, turn = np.random.default_rng(0), count()
    ids = rng.integers(0, 200, N)
    keys, ones = encode_entity_keys([numeric(ids)]), np.ones(N, np.bool_)
    amounts, zeros = rng.gamma(2.0, 30.0, N), np.zeros(N, np.int64)

    def ours() -> object:
        for _ in range(20_000 // N):  # every hop comes round once
            at = 1_700_000_000_000 + next(turn) * N + np.arange(N)
            column = {"x": NumericColumn(amounts, ones)}
            state.apply(keys, at, zeros, at, column)
            state.emit(), state.age(), state.take_changed_tiles()
        return state

    def stock() -> object:
        found = []
        for _ in range(120):
            order = np.argsort(ids, kind="stable")
            found.append(np.add.reduceat(amounts[order], np.arange(0, N, 2)))
        return found

    for _ in range(20):  # until every window is full
        ours()
    return ours, stock


def _values() -> tuple[RowLayout, dict[str, NumericColumn]]:
    names = [f"f{i:02d}" for i in range(15)]
    rng = np.random.default_rng(1)
    return RowLayout(dict.fromkeys(names, "Float64")), {n: numeric(rng.random(N)) for n in names}


def packing() -> tuple[Work, Work]:
    """Rows for the store; `struct`."""
    layout, columns = _values()
    stamps = np.zeros(N, np.int64)
    lines = np.stack([c.values for c in columns.values()], axis=1).tolist()
    pack = struct.Struct("<4q15d").pack

    def ours() -> object:
        return layout.pack(columns, 1, 1, stamps, stamps + NEVER_MS)

    return ours, lambda: [pack(1, 1, 0, 0, *line) for line in lines]


def unpacking() -> tuple[Work, Work]:
    """Rows from the store as columns; `struct`."""
    layout, columns = _values()
    stamps = np.zeros(N, np.int64)
    packed = layout.pack(columns, 1, 1, stamps, stamps + NEVER_MS)
    raw = [packed.row(i) for i in range(N)]
    unpack = struct.Struct(f"<{len(raw[0]) // 8}d").unpack
    return lambda: layout.unpack(raw), lambda: [unpack(row) for row in raw]


def answers() -> tuple[Work, Work]:
    """Predictions as JSON records; orjson's dumps of dictionaries."""
    # So few that their objects fit into memory that Python keeps: more would time page faults.
    found = predictions(n=100)
    objects = [
        orjson.loads(r) for r in prediction_records(found, prediction_ids(found)).to_bytes_list()
    ]

    def ours() -> object:
        return prediction_records(found, prediction_ids(found))

    return ours, lambda: [orjson.dumps(each) for each in objects]


def keys() -> tuple[Work, Work]:
    """Entity keys of text; Python's bytes."""
    names = [f"card-{i}" for i in range(N)]
    column = strings(names)
    assert isinstance(column, BytesColumn)
    return lambda: encode_entity_keys([column]), lambda: [b"\0" + n.encode() for n in names]


CASES: Mapping[str, Callable[[], tuple[Work, Work]]] = {
    each.__name__: each for each in (parsing, decoding, engine, packing, unpacking, answers, keys)
}


def ratio(ours: Work, stock: Work) -> float:
    """CPU time of ours as a multiple of the library's."""
    least, turns, began = [float("inf")] * 2, 0, time.thread_time()
    gc.collect()
    gc.disable()  # it would walk whatever the process holds, in whoever's turn it is
    try:
        while turns < TURNS or time.thread_time() - began < LEAST_S:
            for side, work in enumerate((ours, stock)):
                start = time.thread_time()
                work()
                least[side] = min(least[side], time.thread_time() - start)
            turns += 1
    finally:
        gc.enable()
    return least[0] / least[1]


def slowed(work: Work, times: float) -> Work:
    """The same work, in so many times the time."""

    def slow() -> object:
        began = time.thread_time()
        found = work()
        end = began + times * (time.thread_time() - began)
        while time.thread_time() < end:
            pass
        return found

    return slow


def processor() -> str:
    """What this machine calls its processor."""
    found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return found[1] if found else "unknown"


def baseline() -> tuple[bool, dict[str, float]]:
    """Whether this processor has one, and case -> the ratio that it had; without one, the greatest
    that any had."""
    known: dict[str, dict[str, float]] = json.loads(BASELINE.read_text())
    if processor() in known:
        return True, known[processor()]
    return False, {name: max(each[name] for each in known.values()) for name in CASES}


def measured(
    processes: int, cases: Sequence[str] = tuple(CASES), times: float = 1.0
) -> dict[str, list[float]]:
    """Case -> its ratio in each of so many processes, one after the other. `times` slows ours."""
    argv = [sys.executable, "-m", "support.speed", "--child", "--times", str(times), *cases]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(processes):
        done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        for name, value in json.loads(done.stdout.splitlines()[-1]).items():
            found[name].append(value)
    return found


def _measure_here(cases: Sequence[str], times: float) -> dict[str, float]:
    found = {}
    for name in cases:
        ours, stock = CASES[name]()
        found[name] = ratio(ours if times == 1 else slowed(ours, times), stock)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="case", default=list(CASES))
    parser.add_argument("--write", action="store_true", help="the baseline of this processor")
    parser.add_argument("--processes", type=int, default=9)
    parser.add_argument("--times", type=float, default=1.0, help="slow our side down")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if unknown := {*options.cases} - {*CASES}:
        parser.error(
            f"no case is called {', '.join(sorted(unknown))}: there are {', '.join(CASES)}"
        )
    if options.write and ({*options.cases} != {*CASES} or options.times != 1):
        parser.error("a baseline is of all cases at their own speed: --write stands alone")
    if options.child:
        print(json.dumps(_measure_here(options.cases, options.times)))
        return
    found = measured(options.processes, options.cases, options.times)
    middle = {name: float(np.median(ratios)) for name, ratios in found.items()}
    _, before = baseline()
    for name, ratios in found.items():
        was = f", {middle[name] / before[name]:.2f} times the baseline" if name in before else ""
        print(f"{name:10} {middle[name]:.3f} ({min(ratios):.3f} to {max(ratios):.3f}){was}")
    if options.write:
        known = json.loads(BASELINE.read_text())
        known[processor()] = {name: round(ratio, 4) for name, ratio in middle.items()}
        BASELINE.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
