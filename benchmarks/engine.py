"""Window engine alone: what one event, one row and one tile cost in CPU time of one core.

    python benchmarks/engine.py [--keys 100000] [--churn KEYS] [--sketches]

15 features in 3 windows with 3 hops, keys drawn uniformly. First a thin stream, in which nearly
every event opens a tile in every window, then a dense one. Values are compared with NumPy over the
raw events before a total is printed. With --churn 5000000, after that: so many keys that come once
and never again, and the memory meanwhile, which must stay flat. With --sketches: distinct counts
and percentiles instead, beside a count, and what a tile of each takes for few and for many values.
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
import results

from streamsvc.columns import BytesColumn, NumericColumn
from streamsvc.definitions.plan import Aggregate
from streamsvc.features.engine import WindowState
from streamsvc.features.history import features_at
from streamsvc.features.spec import WindowSpec
from streamsvc.features.warm import warm

WINDOWS = ((60_000, 5_000), (180_000, 10_000), (360_000, 20_000))
FUNCTIONS: tuple[Any, ...] = ("count", "sum", "mean", "min", "max")
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


def verify(aggregates: list[Aggregate], rows: Any, events: dict[str, Any], t: int) -> None:
    """Compare 200 emitted keys with NumPy over the raw events."""
    emitted = rows.keys.data[rows.keys.start[:, None] + np.arange(1, 9)].copy().view(np.int64)[:, 0]
    chosen = np.random.default_rng(1).choice(len(emitted), 200)
    looked_at = np.flatnonzero(np.isin(events["ids"], emitted[chosen]))
    ids, times, amounts = (events[name][looked_at] for name in ("ids", "times", "amounts"))
    for row in chosen:
        mine = ids == emitted[row]
        for a in aggregates:
            left = (t - a.window_ms) // a.hop_ms * a.hop_ms
            inside = amounts[mine & (times >= left) & (times <= t)]
            column = rows.values[a.feature]
            want = len(inside) if a.function == "count" else None
            if want is None and len(inside) > (a.function == "std"):
                sample = {"ddof": 1} if a.function == "std" else {}
                want = getattr(np, a.function)(inside, **sample)
            got = column.values[row] if column.valid[row] else None
            if want is None or got is None:
                assert want is got, (a.feature, got, want)
            else:
                assert np.isclose(got, want, rtol=1e-9, atol=0, equal_nan=True), (a, got, want)


def stream(rng: Any, keys: int, events: int, start: int, span: int) -> dict[str, Any]:
    """Events of uniform keys, evenly spread over `span` milliseconds."""
    return {
        "ids": rng.integers(0, keys, events),
        "times": start + np.arange(events) * span // events,
        "amounts": rng.gamma(2.0, 30.0, events),
    }


class Meter:
    """CPU time and units of work by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self.units: dict[str, int] = {}

    def __call__(self, name: str, step: Any, units: Any) -> Any:
        result, took = timed(step)
        self.spent[name] = self.spent.get(name, 0.0) + took
        self.units[name] = self.units.get(name, 0) + (units(result) if callable(units) else units)
        return result

    def show(self, name: str, unit: str) -> list[results.Row]:
        """Print it, if there was such work; its row."""
        if not self.units.get(name):
            return []
        cost = self.spent[name] / self.units[name] * 1e9
        print(f"  {name:<28} {cost:6.0f} ns {unit} ({self.units[name]:,})")
        return [{"work": name, "ns": cost, "for": unit}]


def feed(state: WindowState, events: dict[str, Any], meter: Meter) -> None:
    """Chunks of 5,000; rows every 10 chunks, a commit every 100."""
    n = len(events["ids"])
    column, zeros, offsets = key_column(events["ids"]), np.zeros(n, np.int64), np.arange(n)
    for chunk, low in enumerate(range(0, n, CHUNK), 1):
        cut = slice(low, low + CHUNK)
        part = BytesColumn(column.data, column.start[cut], column.end[cut], column.valid[cut])
        amount = {"amount": NumericColumn(events["amounts"][cut], column.valid[cut])}
        arguments = (part, events["times"][cut], zeros[cut], offsets[cut], amount)
        meter("apply", lambda a=arguments: state.apply(*a), len(part))
        if chunk % 10 == 0:
            meter("emit", state.emit, len)
            meter("age", state.age, len)
        if chunk % 100 == 0:
            meter("take changed tiles", state.take_changed_tiles, len)


def run(keys: int, functions: tuple[Any, ...]) -> tuple[list[results.Row], float]:
    """Rows of results, and the bytes of a tile."""
    aggregates = [Aggregate(f"{f}_{w}", "amount", f, w, h) for w, h in WINDOWS for f in functions]
    spec = WindowSpec.of(aggregates, {"amount": "float64"})
    state, rng = WindowState(spec), np.random.default_rng(0)
    parts = [
        stream(rng, keys, 25 * keys, START_MS, 400_000),
        stream(rng, keys, 15 * keys, START_MS + 400_000, 15_000),
    ]
    print(f"{len(aggregates)} features ({', '.join(functions)}), {keys:,} keys")
    told: list[results.Row] = []
    for title, events in zip(("every event opens tiles", "steady"), parts, strict=True):
        meter = Meter()
        feed(state, events, meter)
        print(f" {title}:")
        shown = [("apply", "an event"), ("emit", "a row"), ("age", "a row")]
        for name, unit in [*shown, ("take changed tiles", "a tile")]:
            told += [{"stream": title, **row} for row in meter.show(name, unit)]
    everything = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    state.mark_all_changed()
    rows = meter("emit every key", state.emit, len)
    verify(aggregates, rows, everything, state.clock_ms)
    stats = state.stats()
    snapshot = meter("snapshot", state.snapshot, len)
    again = WindowState(spec)
    meter("load", lambda: again.load(snapshot), len(snapshot))
    assert again.stats().tiles == stats.tiles
    state.advance(state.clock_ms + WINDOWS[0][1])
    due = state.n_due
    assert len(meter("age, a burst", state.age, len)) == due
    print(f" with {stats.tiles / stats.keys:.1f} live tiles a key in 3 windows:")
    full = f"{stats.tiles / stats.keys:.0f} live tiles a key"
    shown = [("emit every key", "a row"), ("age, a burst", "a row")]
    for name, unit in [*shown, ("snapshot", "a tile"), ("load", "a tile")]:
        told += [{"stream": full, **row} for row in meter.show(name, unit)]
    size = f"{stats.bytes / 1e6:.0f} MB, {stats.bytes / stats.tiles:.0f} bytes a tile"
    print(f"  words a tile {spec.program.stride.tolist()}, all arrays {size}")
    return [{"functions": ", ".join(functions), **row} for row in told], stats.bytes / stats.tiles


def history(keys: int, events: int, queries: int) -> None:
    rng = np.random.default_rng(2)
    aggregates = [Aggregate(f"{f}_{w}", "amount", f, w, h) for w, h in WINDOWS for f in FUNCTIONS]
    spec = WindowSpec.of(aggregates, {"amount": "float64"})
    times = START_MS + np.sort(rng.integers(0, 40 * 360_000, events))
    ids = rng.integers(0, keys, events)
    asked = START_MS + rng.integers(0, 40 * 360_000, queries)
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
        # 100,000 new keys in the longest window and its hop.
        at = START_MS + ids * 38 // 10
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


SKETCHES: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("count alone, to compare", ("count",)),
    ("count_distinct", ("count", "count_distinct")),
    ("p95", ("count", "p95")),
    ("p50, p95, p99", ("count", "p50", "p95", "p99")),
)


def sketches(keys: int) -> None:
    """Cost of an event and a row, in the same windows."""
    for title, functions in SKETCHES:
        for values in ("heavy-tailed", "20 distinct"):
            _run_sketch(keys, title, functions, values)


def _run_sketch(keys: int, title: str, functions: tuple[Any, ...], values: str) -> None:
    aggregates = [Aggregate(f"{f}_{w}", "amount", f, w, h) for w, h in WINDOWS for f in functions]
    state = WindowState(WindowSpec.of(aggregates, {"amount": "float64"}))
    rng, meter = np.random.default_rng(0), Meter()
    events = stream(rng, keys, 20 * keys, START_MS, 40_000)
    n = len(events["ids"])
    drawn = rng.integers(0, 20, n) * 7.5 if values == "20 distinct" else rng.lognormal(3, 1.5, n)
    events["amounts"] = np.asarray(drawn, np.float64)
    feed(state, events, meter)
    state.mark_all_changed()
    rows = meter("emit every key", state.emit, len)
    verify_sketches(aggregates, rows, events, state.clock_ms)
    stats = state.stats()
    snapshot = meter("snapshot", state.snapshot, len)
    spent = {k: meter.spent[k] / meter.units[k] * 1e9 for k in ("apply", "emit every key")}
    stored = len(snapshot.to_bytes()) / stats.tiles
    sizes = f"{stats.bytes / stats.tiles:.0f} bytes a tile, {stored:.0f} stored"
    print(
        f"  {title:<24} {values:<13} {spent['apply']:6.0f} ns an event, "
        f"{spent['emit every key']:6.0f} ns a row, {sizes}"
    )


def verify_sketches(aggregates: list[Aggregate], rows: Any, events: dict[str, Any], t: int) -> None:
    """Compare 50 emitted keys with NumPy, within the bounds of docs/windows.md."""
    ids, times, amounts = events["ids"], events["times"], events["amounts"]
    emitted = rows.keys.data[rows.keys.start[:, None] + np.arange(1, 9)].copy().view(np.int64)[:, 0]
    for row in np.random.default_rng(1).choice(len(emitted), 50):
        mine = ids == emitted[row]
        for a in aggregates:
            left = (t - a.window_ms) // a.hop_ms * a.hop_ms
            inside = np.sort(amounts[mine & (times >= left) & (times <= t)])
            column = rows.values[a.feature]
            if a.function == "count":
                assert column.values[row] == len(inside)
            elif a.function == "count_distinct":
                assert column.values[row] == len(np.unique(inside))
            else:
                want = inside[int(a.function[1:]) * (len(inside) - 1) // 100]
                assert abs(column.values[row] - want) <= want / 129 * (1 + 1e-9)


def tile_bytes() -> None:
    """One key, one tile: what the payload grows to with the distinct values it has seen."""
    print("bytes of one tile in memory (stored), by distinct values in it")
    for function in ("count_distinct", "p95"):
        found = []
        for n in (1, 5, 20, 100, 500, 1_000, 10_000, 1_000_000):
            spec = WindowSpec.of([Aggregate("f", "v", function, 1_000, 1_000)], {"v": "float64"})
            state = WindowState(spec)
            values = np.random.default_rng(n).lognormal(3, 1.5, n)
            ones, zeros = np.ones(n, np.bool_), np.zeros(n, np.int64)
            column = {"v": NumericColumn(values, ones)}
            state.apply(key_column(zeros), zeros + START_MS, zeros, zeros, column)
            tags = state._storage.state.tags.astype(np.int64)
            free = int((1 << (tags[tags > 0] - 1)).sum())
            used = (len(tags) - free) * 32  # the key lies in its slot
            words = len(state.snapshot().words)
            found.append(f"{n:,}: {used:,} ({8 * words:,})")
        print(f"  {function:<15} {'; '.join(found)}")


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} x {names[0]}" if names else platform.machine()


def _resident_mb() -> float:
    status = Path("/proc/self/statm")
    if status.exists():
        return int(status.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--churn", type=int, default=0)
    parser.add_argument("--sketches", action="store_true")
    options = parser.parse_args()
    _, took = timed(warm)
    print(f"{datetime.date.today()}, {_processor()}", end=", ")
    print(f"Python {platform.python_version()}, numba {numba.__version__}, numpy {np.__version__}")
    print(f"warm: {took:.1f} s")
    if options.sketches:
        print(f"3 windows, {options.keys:,} keys, 20 events a key in 40 s")
        sketches(options.keys)
        tile_bytes()
        return
    told, tile = run(options.keys, FUNCTIONS)
    more, _ = run(options.keys, ("count", "mean", "std", "min", "max"))
    note = f"{options.keys:,} keys, 3 windows with 3 hops, 5 functions in each: CPU time of a core."
    figures = {"tile_bytes": tile}
    results.write("engine", told + more, "numba", "numpy", note=note, figures=figures)
    history(options.keys, 1_000_000, 300_000)
    if options.churn:
        churn(options.churn)


if __name__ == "__main__":
    main()
