"""Window engine alone: what one event, one row and one tile cost in CPU time of one core.

    python benchmarks/engine.py [--keys 100000] [--events 3000000] [--churn 0]

15 features in 3 windows with 3 hops, keys drawn uniformly, one hour of event time. Values are
compared with NumPy over the raw events before anything is printed.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import resource
import time
from pathlib import Path
from typing import Any

import numba
import numpy as np

from streamsvc.columns import BytesColumn, NumericColumn
from streamsvc.definitions.plan import Aggregate
from streamsvc.features.engine import WindowState
from streamsvc.features.history import features_at
from streamsvc.features.spec import WindowSpec
from streamsvc.features.warm import warm

WINDOWS = ((600_000, 30_000), (1_800_000, 60_000), (3_600_000, 120_000))
FUNCTIONS: tuple[Any, ...] = ("count", "sum", "mean", "min", "max")
SPAN_MS = 3_600_000
START_MS = 1_700_000_000_000
CHUNK = 5_000


def key_column(ids: Any) -> BytesColumn:
    """Entity keys of int64 join keys: a type byte and eight bytes."""
    raw = np.ones((len(ids), 9), np.uint8)
    raw[:, 1:] = np.ascontiguousarray(ids, np.int64).view(np.uint8).reshape(-1, 8)
    start = np.arange(len(ids), dtype=np.int64) * 9
    return BytesColumn(raw.reshape(-1), start, start + 9, np.ones(len(ids), np.bool_))


def timed(step: Any) -> tuple[Any, float]:
    begin = time.process_time()
    result = step()
    return result, time.process_time() - begin


def verify(
    aggregates: list[Aggregate], rows: Any, ids: Any, times: Any, amounts: Any, t: int
) -> None:
    """Compare 200 emitted keys with NumPy over the raw events."""
    emitted = rows.keys.data[rows.keys.start[:, None] + np.arange(1, 9)].copy().view(np.int64)[:, 0]
    for row in np.random.default_rng(1).choice(len(emitted), 200):
        mine = ids == emitted[row]
        for a in aggregates:
            left = (t - a.window_ms) // a.hop_ms * a.hop_ms
            inside = amounts[mine & (times >= left) & (times <= t)]
            column = rows.values[a.feature]
            want = len(inside) if a.function == "count" else None
            if want is None and len(inside):
                want = getattr(np, a.function)(inside, **({"ddof": 1} if a.function == "std" else {}))
            got = column.values[row] if column.valid[row] else None
            if want is None or got is None:
                assert want is got or a.function == "std", (a.feature, got, want)
            else:
                assert np.isclose(got, want, rtol=1e-9, atol=0, equal_nan=True), (a, got, want)


def run(keys: int, events: int, functions: tuple[Any, ...]) -> None:
    rng = np.random.default_rng(0)
    ids = rng.integers(0, keys, events)
    times = START_MS + np.arange(events) * SPAN_MS // events
    amounts = rng.gamma(2.0, 30.0, events)
    aggregates = [
        Aggregate(f"{f}_{w}", "amount", f, w, h) for w, h in WINDOWS for f in functions
    ]
    spec = WindowSpec.of(aggregates, {"amount": "float64"})
    state = WindowState(spec)
    column, zeros, offsets = key_column(ids), np.zeros(events, np.int64), np.arange(events)
    spent = {"apply": 0.0, "emit": 0.0, "take": 0.0, "age": 0.0}
    count = {"emit": 0, "take": 0, "age": 0}
    late_half = 0.0
    for low in range(0, events, CHUNK):
        cut = slice(low, low + CHUNK)
        part = BytesColumn(column.data, column.start[cut], column.end[cut], column.valid[cut])
        amount = NumericColumn(amounts[cut], column.valid[cut])
        begin = time.process_time()
        state.apply(part, times[cut], zeros[cut], offsets[cut], {"amount": amount})
        took = time.process_time() - begin
        spent["apply"] += took
        late_half += took if low >= events // 2 else 0.0
        if low // CHUNK % 20 == 19:
            rows, took = timed(state.emit)
            spent["emit"] += took
            count["emit"] += len(rows)
            rows, took = timed(lambda: state.age(20_000))
            spent["age"] += took
            count["age"] += len(rows)
            batch, took = timed(state.take_changed_tiles)
            spent["take"] += took
            count["take"] += len(batch)
    state.mark_all_changed()
    state.age()
    state.mark_all_changed()
    rows, took = timed(state.emit)
    verify(aggregates, rows, ids, times, amounts, state.clock_ms)
    stats = state.stats()
    print(f"features {len(aggregates)} ({', '.join(functions)}), keys {stats.keys:,}")
    print(f"  live tiles             {stats.tiles:,} = {stats.tiles / stats.keys / 3:.1f} a window and key")
    print(f"  words a tile           {spec.program.stride.tolist()}")
    print(f"  bytes a tile           {stats.bytes / stats.tiles:.0f}, all arrays {stats.bytes / 1e6:.0f} MB")
    print(f"  apply                  {spent['apply'] / events * 1e9:.0f} ns an event")
    print(f"  apply, second half     {late_half / (events / 2) * 1e9:.0f} ns an event")
    print(f"  emit while running     {spent['emit'] / count['emit'] * 1e9:.0f} ns a row")
    print(f"  emit of every key      {took / len(rows) * 1e9:.0f} ns a row")
    print(f"  age while running      {spent['age'] / count['age'] * 1e9:.0f} ns a row")
    print(f"  take                   {spent['take'] / count['take'] * 1e9:.0f} ns a tile")
    snapshot, took = timed(state.snapshot)
    print(f"  snapshot               {took / len(snapshot) * 1e9:.0f} ns a tile")
    again = WindowState(spec)
    _, took = timed(lambda: again.load(snapshot))
    print(f"  load                   {took / len(snapshot) * 1e9:.0f} ns a tile")
    assert again.stats().tiles == stats.tiles
    state.advance(state.clock_ms + WINDOWS[0][1])
    due = state.n_due
    rows, took = timed(state.age)
    assert len(rows) == due
    print(f"  age, burst of {due:,}  {took / len(rows) * 1e9:.0f} ns a row")


def history(keys: int, events: int, queries: int) -> None:
    rng = np.random.default_rng(2)
    aggregates = [Aggregate(f"{f}_{w}", "amount", f, w, h) for w, h in WINDOWS for f in FUNCTIONS]
    spec = WindowSpec.of(aggregates, {"amount": "float64"})
    times = START_MS + np.sort(rng.integers(0, 40 * SPAN_MS, events))
    ids = rng.integers(0, keys, events)
    asked = START_MS + rng.integers(0, 40 * SPAN_MS, queries)
    amounts = NumericColumn(rng.gamma(2.0, 30.0, events), np.ones(events, np.bool_))
    zeros, offsets = np.zeros(events, np.int64), np.arange(events)
    key, query = key_column(ids), key_column(rng.integers(0, keys, queries))
    _, took = timed(
        lambda: features_at(spec, key, times, zeros, offsets, {"amount": amounts}, query, asked)
    )
    print(f"history: {events:,} events, {queries:,} queries in {took:.2f} s")


def churn(keys: int) -> None:
    """Keys that come once and never again: memory must stay what a window's worth takes."""
    aggregates = [Aggregate(f"{f}_{w}", "amount", f, w, h) for w, h in WINDOWS for f in FUNCTIONS]
    state = WindowState(WindowSpec.of(aggregates, {"amount": "float64"}))
    gone = 0
    for low in range(0, keys, CHUNK):
        ids = np.arange(low, low + CHUNK)
        # 100,000 new keys an hour, which is the longest window.
        at = START_MS + ids * 36
        ones = np.ones(CHUNK, np.bool_)
        amount = NumericColumn(ids.astype(np.float64), ones)
        state.apply(key_column(ids), at, np.zeros(CHUNK, np.int64), ids, {"amount": amount})
        state.emit()
        rows = state.age()
        gone += int((rows.valid_until == 2**63 - 1).sum())
        state.take_changed_tiles()
        if low % 500_000 == 0:
            stats = state.stats()
            print(
                f"  churn {low:>9,}: keys {stats.keys:,}, tiles {stats.tiles:,}, "
                f"{stats.bytes / 1e6:.0f} MB, process {_resident_mb():.0f} MB"
            )
    assert gone + state.stats().keys == keys


def _resident_mb() -> float:
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--churn", type=int, default=0)
    options = parser.parse_args()
    _, took = timed(warm)
    print(f"{datetime.date.today()} {platform.processor() or platform.machine()}", end=", ")
    print(f"Python {platform.python_version()}, numba {numba.__version__}, numpy {np.__version__}")
    print(f"warm: {took:.1f} s")
    run(options.keys, options.events, FUNCTIONS)
    run(options.keys, options.events, ("count", "mean", "std", "min", "max"))
    history(options.keys, 1_000_000, 300_000)
    if options.churn:
        churn(options.churn)


if __name__ == "__main__":
    main()
