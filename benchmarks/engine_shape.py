"""Window engine alone: what an event costs by the shape of a view.

    python benchmarks/engine_shape.py [--keys 5000]

Number of features (5 to 200: five functions of one to forty columns), of views (1 to 20, each an
engine of its own over the same chunk), length of the window (10 minutes to 30 days, 60 hops in
each) and hop (a window of an hour, 1 to 600 hops). An event of every key a second; keys that have
all the tiles they can have. CPU time of a core an event, with its rows and changed tiles, the least
of three runs. Before a line is printed, 200 keys are compared with NumPy. Each curve is fitted by
least squares: cost = fixed + slope · x, which is printed with its R².
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import results
from engine import CHUNK, START_MS, Meter, key_column, verify
from engine_scale import DAY, MINUTE
from machine import machine
from report import table

from streamsvc.columns import BytesColumn, NumericColumn
from streamsvc.definitions.plan import Aggregate
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec
from streamsvc.features.warm import warm

FUNCTIONS: tuple[Any, ...] = ("count", "sum", "mean", "min", "max")
HOUR = 60 * MINUTE
RUNS = 3
SECONDS = 10
"""Of events in each run, one of every key a second."""


def cost(keys: int, window: int, hop: int, columns: int, views: int) -> float:
    """Nanoseconds an event."""
    made = [
        Aggregate(f"{f}_{window}_{c}", f"c{c}", f, window, hop)
        for c in range(columns)
        for f in FUNCTIONS
    ]
    spec = WindowSpec.of(made, {f"c{c}": "float64" for c in range(columns)})
    states = [WindowState(spec) for _ in range(views)]
    rng = np.random.default_rng(0)
    end = START_MS // DAY * DAY
    fed = [_events(rng, keys, end - window + hop * np.arange(1, window // hop + 1))]
    for state in states:
        _feed(state, fed[0], columns, Meter())
        state.take_changed_tiles()
    found = []
    for run in range(RUNS):
        begin = end + (run * SECONDS + np.arange(1, SECONDS + 1)) * 1_000
        fed.append(_events(rng, keys, begin))
        meter = Meter()
        for state in states:
            _feed(state, fed[-1], columns, meter)
        found.append(sum(meter.spent.values()) / len(fed[-1]["ids"]) * 1e9)
    _check(states[-1], made, fed)
    return min(found)


def _events(rng: Any, keys: int, times: Any) -> dict[str, Any]:
    """One of every key at each of these times."""
    n = keys * len(times)
    return {
        "ids": np.concatenate([rng.permutation(keys) for _ in times]),
        "times": np.repeat(times, keys),
        "amounts": rng.gamma(2.0, 30.0, n),
    }


def _feed(state: WindowState, events: dict[str, Any], columns: int, meter: Meter) -> None:
    """Chunks of 5,000; rows every 4 chunks, a commit every 20."""
    n = len(events["ids"])
    column, zeros, offsets = key_column(events["ids"]), np.zeros(n, np.int64), np.arange(n)
    for chunk, low in enumerate(range(0, n, CHUNK), 1):
        cut = slice(low, low + CHUNK)
        part = BytesColumn(column.data, column.start[cut], column.end[cut], column.valid[cut])
        amount = NumericColumn(events["amounts"][cut], column.valid[cut])
        given = {f"c{c}": amount for c in range(columns)}
        arguments = (part, events["times"][cut], zeros[cut], offsets[cut], given)
        meter("apply", lambda a=arguments: state.apply(*a), len(part))
        if chunk % 4 == 0:
            meter("emit", state.emit, len)
            meter("age", state.age, len)
        if chunk % 20 == 0:
            meter("take", state.take_changed_tiles, len)


def _check(state: WindowState, made: list[Aggregate], fed: list[dict[str, Any]]) -> None:
    everything = {name: np.concatenate([part[name] for part in fed]) for name in fed[0]}
    state.emit()
    state.mark_all_changed()
    verify(made[-len(FUNCTIONS) :], state.emit(), everything, state.clock_ms)


def curve(what: str, unit: str, xs: list[float], ys: list[float]) -> dict[str, Any]:
    """The straight line through a curve: at x = 0, by unit, and how much of it that explains."""
    slope, fixed = np.polyfit(xs, ys, 1)
    left = np.asarray(ys) - (fixed + slope * np.asarray(xs))
    spread = np.asarray(ys) - np.mean(ys)
    return {
        "growth by": what,
        "fixed, ns": float(fixed),
        "ns more": float(slope),
        "for each": unit,
        "R²": float(1 - left @ left / (spread @ spread)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=5_000)
    keys = parser.parse_args().keys
    warm()
    print(machine("numba", "numpy"))
    rows, fits = [], []
    shapes: tuple[tuple[str, str, list[int], Any], ...] = (
        ("features", "feature", [5, 10, 25, 50, 100, 200], lambda x: (HOUR, MINUTE, x // 5, 1)),
        ("views", "view of five features", [1, 2, 5, 10, 20], lambda x: (HOUR, MINUTE, 1, x)),
        ("hops in an hour", "hop", [1, 6, 60, 600], lambda x: (HOUR, HOUR // x, 1, 1)),
        ("minutes of window", "minute", [10, 60, 1_440, 43_200], _by_length),
    )
    for what, unit, xs, shape in shapes:
        ys = []
        for x in xs:
            ys.append(cost(keys, *shape(x)))
            rows.append({"by": what, "x": x, "ns an event": ys[-1]})
            print(f"{what} {x:,}: {ys[-1]:,.0f} ns an event", flush=True)
        fits.append(curve(what, unit, [float(x) for x in xs], ys))
    print(table(fits))
    note = f"{keys:,} keys; five functions a column, an hour by the minute if not said otherwise."
    plots = [
        {
            "title": f"An event by {what}",
            "x": "x",
            "label": what,
            "y": "ns an event",
            "where": {"by": what},
            "log": "xy",
        }
        for what, *_ in shapes
    ]
    results.write("engine_shape", rows, "numba", "numpy", note=note, plots=plots)
    fitted = "Least squares through the curves above: cost = fixed + slope · x."
    results.write("engine_growth", fits, "numba", "numpy", note=fitted)


def _by_length(minutes: int) -> tuple[int, int, int, int]:
    return minutes * MINUTE, minutes * MINUTE // 60, 1, 1


if __name__ == "__main__":
    main()
