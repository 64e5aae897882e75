"""Random specs and event streams, and events as the columns that the engine takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st

from streamsvc.columns import BytesColumn, Column, NumericColumn, strings
from streamsvc.definitions.plan import LIFETIME_MS, Aggregate

from .oracle import Event

TYPES: dict[str, Any] = {"price": "float64", "units": "int64", "rush": "bool", "shop": "string"}
FUNCTIONS = ("count", "sum", "mean", "min", "max", "std", "var", "first", "last")
KEYS = [b"", b"k", b"a longer key than one word", b"\x00\x01", b"x" * 300]

SKETCHES = ("count_distinct", "p1", "p50", "p95", "p99", "latest")
OF_TEXT = ("count", "count_distinct", "min", "max", "first", "last", "latest")
FOREVER = (LIFETIME_MS, LIFETIME_MS)

windows = st.sampled_from(
    [FOREVER, (10, 1), (10, 5), (7, 3), (60, 10), (40, 10), (25, 5), (4, 4), (3, 8)]
)
functions = {
    "price": st.sampled_from(FUNCTIONS + SKETCHES),
    "units": st.sampled_from(FUNCTIONS + SKETCHES),
    "rush": st.sampled_from(
        [f for f in FUNCTIONS + SKETCHES if f not in ("p1", "p50", "p95", "p99")]
    ),
    "shop": st.sampled_from(OF_TEXT),
}


@st.composite
def specs(draw: st.DrawFn) -> list[Aggregate]:
    some = []
    for i in range(draw(st.integers(1, 8))):
        column = draw(st.sampled_from(sorted(TYPES)))
        function = draw(functions[column])
        window, hop = draw(windows)
        some.append(Aggregate(f"f{i}", column, function, window, hop))
    return some


values = st.fixed_dictionaries(
    {
        "price": st.none()
        | st.just(float("nan"))
        | st.floats(-1e6, 1e6, allow_subnormal=False)
        | st.sampled_from([0.1, 0.2, 0.3, 0.0, -0.0, 5e-300, -7e100]),
        "units": st.none() | st.integers(-(2**58), 2**58) | st.integers(-3, 3),
        "rush": st.none() | st.booleans(),
        "shop": st.none() | st.sampled_from(["", "north", "nord", "süd", "s" * 100]),
    }
)


@st.composite
def event_lists(draw: st.DrawFn, max_size: int = 12, spread: int = 90) -> list[Event]:
    """Events by steps in time, some of them backwards; offsets are made unique by the caller."""
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from(KEYS),
                st.integers(0, 6) | st.integers(-spread, spread),
                st.integers(0, 2),
                values,
            ),
            max_size=max_size,
        )
    )
    time, events = 0, []
    for key, step, partition, row in rows:
        events.append(Event(key, time + step, partition, 0, row))
        time = max(time, time + step) if step <= 6 else time + step // 10
    return events


def placed(events: Sequence[Event], start: int, first_offset: int) -> list[Event]:
    """The events moved in time, with offsets in order of arrival."""
    return [
        Event(e.key, e.time + start, e.partition, first_offset + i, e.values)
        for i, e in enumerate(events)
    ]


def column_of(kind: str, rows: list[Any]) -> Column:
    if kind == "string":
        return strings(rows)
    valid = np.array([v is not None for v in rows], np.bool_)
    dtype: Any = {"float64": np.float64, "int64": np.int64, "bool": np.bool_}[kind]
    return NumericColumn(np.array([0 if v is None else v for v in rows], dtype), valid)


def as_columns(events: Sequence[Event]) -> tuple[BytesColumn, Any, Any, Any, dict[str, Column]]:
    """Arguments of `WindowState.apply`."""
    columns = {n: column_of(kind, [e.values[n] for e in events]) for n, kind in TYPES.items()}
    return (
        strings([e.key for e in events]),
        np.array([e.time for e in events], np.int64),
        np.array([e.partition for e in events], np.int64),
        np.array([e.offset for e in events], np.int64),
        columns,
    )
