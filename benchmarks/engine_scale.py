"""Window engine alone: does an event cost more where there are more keys, or longer windows?

    python benchmarks/engine_scale.py [--keys 1000 100000 1000000 5000000] [--runs 3] [--windows]

15 features in 3 windows, keys uniform, an event of each every four seconds on average, and every
key with all the tiles that its windows can have before anything is measured: otherwise many keys
are young keys, whose rings still grow. Rows and changed tiles are counted by their own units, too,
because with few keys many events make one row. Five million keys take 13 GB and some minutes; give
them one run.
With --windows: 10 minutes with 1 day and 30 days in one view, against 10 minutes alone, once every
tile that a window can have is live. Values of 200 keys are compared with NumPy before a line is
printed.
"""

from __future__ import annotations

import argparse
import datetime
from typing import Any

import numba
import numpy as np
import results
from engine import FUNCTIONS, START_MS, Meter, _processor, feed, key_column, stream, verify

from streamsvc.columns import NumericColumn
from streamsvc.definitions.plan import Aggregate
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec
from streamsvc.features.warm import warm

WINDOWS = ((20_000, 5_000), (40_000, 10_000), (80_000, 20_000))
"""Five tiles each, so that five million keys fit."""
EACH_MS = 4_000
"""Between two events of a key, on average."""
CYCLE = 5
"""Events of each key in which every hop comes round; so many are measured."""
AT_LEAST = 2_000_000
"""But no fewer of all keys."""
MINUTE, DAY = 60_000, 86_400_000
LONG = ((10 * MINUTE, 10_000), (DAY, DAY // 60), (30 * DAY, 30 * DAY // 60))


def state_of(windows: Any) -> tuple[WindowState, list[Aggregate]]:
    made = [Aggregate(f"{f}_{w}", "amount", f, w, h) for w, h in windows for f in FUNCTIONS]
    return WindowState(WindowSpec.of(made, {"amount": "float64"})), made


def joined(parts: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def show(title: str, meters: list[Meter], state: WindowState) -> results.Row:
    """Nanoseconds by unit, and of an event with its share of rows and tiles: the median run."""
    ranked = sorted(meters, key=_cost)
    meter, stats = ranked[len(ranked) // 2], state.stats()
    events = meter.units["apply"]
    cost = {name: meter.spent[name] / (meter.units[name] or 1) * 1e9 for name in meter.spent}
    print(
        f"{title}: {_cost(meter):.0f} ns an event, all in all "
        f"({len(meters)} runs: {_cost(ranked[0]):.0f} to {_cost(ranked[-1]):.0f})\n"
        f"  apply {cost['apply']:.0f} an event, emit {cost['emit']:.0f} a row, "
        f"age {cost['age']:.0f} a row, take {cost['take changed tiles']:.0f} a tile; "
        f"{events:,} events a run, {meter.units['emit'] / events:.2f} rows, "
        f"{meter.units['age'] / events:.2f} aged and "
        f"{meter.units['take changed tiles'] / events:.2f} tiles an event; "
        f"{stats.tiles / stats.keys:.0f} live tiles a key, {stats.bytes / 1e6:,.0f} MB",
        flush=True,
    )
    return {
        "ns an event, all in all": _cost(meter),
        "least": _cost(ranked[0]),
        "most": _cost(ranked[-1]),
        "apply, ns an event": cost["apply"],
        "emit, ns a row": cost["emit"],
        "rows an event": meter.units["emit"] / events,
        "tiles a key": stats.tiles / stats.keys,
        "MB": stats.bytes / 1e6,
    }


def _cost(meter: Meter) -> float:
    return sum(meter.spent.values()) / meter.units["apply"] * 1e9


def scale(keys: int, runs: int) -> results.Row:
    state, aggregates = state_of(WINDOWS)
    rng = np.random.default_rng(keys)
    end = START_MS // DAY * DAY
    fed = [cadence(keys, 4, hop, end, rng) for _, hop in reversed(WINDOWS)]
    for part in fed:
        part["ids"] = rng.permutation(keys)[part["ids"]]  # slots in another order than events
        fill(state, part)
    state.emit()
    state.take_changed_tiles()
    n = max(AT_LEAST, CYCLE * keys)
    span, meters = n // keys * EACH_MS, []
    for run in range(runs):
        fed.append(stream(rng, keys, n, end + run * span, span))
        meters.append(Meter())
        feed(state, fed[-1], meters[-1])
    state.emit()
    state.mark_all_changed()
    verify(aggregates, state.emit(200_000), joined(fed), state.clock_ms)
    return {"keys": keys, **show(f"{keys:,} keys", meters, state)}


def fill(state: WindowState, events: dict[str, Any]) -> None:
    """Apply without a row or a commit: nobody looks before all is there."""
    column, n = key_column(events["ids"]), len(events["ids"])
    zeros, offsets = np.zeros(n, np.int64), np.arange(n)
    amount = {"amount": NumericColumn(events["amounts"], column.valid)}
    state.apply(column, events["times"], zeros, offsets, amount)


def cadence(keys: int, ticks: int, step_ms: int, end_ms: int, rng: Any) -> dict[str, Any]:
    """An event of every key every `step_ms`, `ticks` times, the last at `end_ms`."""
    at = end_ms - np.arange(ticks)[::-1] * step_ms
    return {
        "ids": np.tile(np.arange(keys), ticks),
        "times": np.repeat(at, keys),
        "amounts": rng.gamma(2.0, 30.0, keys * ticks),
    }


def windows(keys: int, runs: int) -> list[results.Row]:
    """A run is 60 ticks of ten seconds: each opens a tile of the shortest window."""
    told = []
    for title, chosen in (("10 min", LONG[:1]), ("10 min + 1 d + 30 d", LONG)):
        rng = np.random.default_rng(1)
        state, aggregates = state_of(chosen)
        end = START_MS // DAY * DAY
        fed = [cadence(keys, 60, hop, end, rng) for _, hop in reversed(LONG)]
        for part in fed:
            feed(state, part, Meter())
        meters = []
        for run in range(1, runs + 1):
            fed.append(cadence(keys, 60, 10_000, end + run * 60 * 10_000, rng))
            meters.append(Meter())
            feed(state, fed[-1], meters[-1])
        state.mark_all_changed()
        verify(aggregates, state.emit(), joined(fed), state.clock_ms)
        told.append({"windows": title, **show(title, meters, state)})
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    default = [1_000, 100_000, 1_000_000, 5_000_000]
    parser.add_argument("--keys", type=int, nargs="+", default=default)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--windows", action="store_true")
    options = parser.parse_args()
    warm()
    print(f"{datetime.date.today()}, {_processor()}, numba {numba.__version__}")
    if options.windows:
        note = "10,000 keys, five features a window, every tile that a window can have live; "
        note += f"the middle of {options.runs} runs of CPU time."
        told = windows(10_000, options.runs)
        results.write("engine_windows", told, "numba", "numpy", note=note)
        return
    told = [scale(keys, options.runs) for keys in options.keys]
    cost = {row["keys"]: row["ns an event, all in all"] for row in told}
    ends = 1_000, 1_000_000
    grown = cost[ends[1]] / cost[ends[0]] if cost.keys() >= set(ends) else None
    plot = {"title": "Engine: an event, its rows and tiles", "x": "keys", "log": "x"}
    results.write(
        "engine_scale",
        told,
        "numba",
        "numpy",
        note=f"15 features in 3 windows, the middle of {options.runs} runs of CPU time.",
        figures={"engine_growth": grown} if grown else {},
        plots=[plot | {"y": "ns an event, all in all"}],
    )


if __name__ == "__main__":
    main()
