"""More keys, tiles and rows than one slice: against NumPy over the raw events."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from streamsvc.columns import BytesColumn, NumericColumn
from streamsvc.definitions.plan import Aggregate
from streamsvc.features.engine import WindowState
from streamsvc.features.history import features_at
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch

N, KEYS, SPAN = 60_000, 700, 1_000_000
AGGREGATES = [
    Aggregate(f"{function}_{window}", "v", function, window, hop)
    for window, hop in ((2_000, 100), (60_000, 1_000), (900_000, 250))
    for function in ("count", "sum", "mean", "min", "max", "std", "first", "last")
]


def keys_of(ids: Any) -> BytesColumn:
    raw = np.ascontiguousarray(ids, np.int64).view(np.uint8)
    start = np.arange(len(ids)) * 8
    return BytesColumn(raw, start, start + 8, np.ones(len(ids), np.bool_))


@pytest.fixture(scope="module")
def stream() -> dict[str, Any]:
    rng = np.random.default_rng(7)
    time = np.sort(rng.integers(0, SPAN, N)) + 10**12
    # A third of the events is late, some of them by most of the longest window.
    late = rng.random(N) < 0.3
    time[late] -= rng.integers(0, 600_000, N)[late] // rng.integers(1, 200, N)[late]
    values = rng.normal(1_000.0, 3.0, N)
    return {
        "ids": rng.zipf(1.3, N) % KEYS,
        "time": time,
        "partition": rng.integers(0, 4, N),
        "offset": np.arange(N),
        "v": NumericColumn(values, rng.random(N) < 0.9),
    }


def expected(stream: dict[str, Any], rows: Any, key: int, t: int) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for a in AGGREGATES:
        left = (t - a.window_ms) // a.hop_ms * a.hop_ms
        time = stream["time"][rows]
        mine = (stream["ids"][rows] == key) & (time >= left) & (time <= t)
        mine &= stream["v"].valid[rows]
        at = np.flatnonzero(mine)
        v = stream["v"].values[rows][at]
        order = np.lexsort((stream["offset"][rows][at], stream["partition"][rows][at], time[at]))
        result: Any = {
            "count": lambda v=v: float(len(v)),
            "std": lambda v=v: v.std(ddof=1) if len(v) > 1 else None,
            "first": lambda v=v, o=order: v[o[0]],
            "last": lambda v=v, o=order: v[o[-1]],
        }.get(a.function, lambda v=v, f=a.function: getattr(np, f)(v))
        found[a.feature] = result() if len(v) or a.function == "count" else None
    return found


def check(got: dict[str, Any], want: dict[str, float | None]) -> None:
    for name, value in want.items():
        assert (got[name] is None) == (value is None), name
        if value is not None:
            assert got[name] == pytest.approx(value, rel=1e-9), name


def row_of(values: dict[str, NumericColumn], i: int) -> dict[str, Any]:
    return {n: c.values[i] if c.valid[i] else None for n, c in values.items()}


def test_stream_restart_and_history_equal_numpy(stream: dict[str, Any]) -> None:
    spec = WindowSpec.of(AGGREGATES, {"v": "float64"})
    state = WindowState(spec)
    log = []
    for low in range(0, N, 13_000):
        cut = slice(low, low + 13_000)
        state.apply(
            keys_of(stream["ids"][cut]),
            stream["time"][cut],
            stream["partition"][cut],
            stream["offset"][cut],
            {"v": stream["v"].take(np.arange(N)[cut])},
        )
        rows = state.emit()
        state.age()
        log.append(state.take_changed_tiles())
    ids = rows.keys.data.view(np.int64)[rows.keys.start // 8]
    everything = np.arange(N)
    rng = np.random.default_rng(3)
    for i in rng.choice(len(rows), 25):
        got = row_of(rows.values, i)
        check(got, expected(stream, everything, int(ids[i]), state.clock_ms))

    restored = WindowState(spec)
    for batch in log:
        for piece in batch.slices(spec, 100_000):
            restored.load(TileBatch.from_bytes(piece.to_bytes()))
    restored.advance(state.clock_ms)
    assert restored.n_due == 0
    assert restored.stats().tiles == state.stats().tiles
    restored.mark_all_changed()
    state.mark_all_changed()
    ours, theirs = state.emit(), restored.emit()
    order, other = (
        np.argsort(r.keys.data.view(np.int64)[r.keys.start // 8]) for r in (ours, theirs)
    )
    for name in ours.values:
        a, b = ours.values[name].take(order), theirs.values[name].take(other)
        assert np.array_equal(a.valid, b.valid)
        assert np.array_equal(a.values[a.valid], b.values[b.valid])

    asked = rng.integers(0, KEYS + 5, 300)
    times = 10**12 + rng.integers(-1_000, SPAN + 10**6, 300)
    past = features_at(
        spec,
        keys_of(stream["ids"]),
        stream["time"],
        stream["partition"],
        stream["offset"],
        {"v": stream["v"]},
        keys_of(asked),
        times,
    )
    for i in range(0, 300, 6):
        check(row_of(past, i), expected(stream, everything, int(asked[i]), int(times[i])))
