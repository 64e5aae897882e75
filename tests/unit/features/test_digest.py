"""Rings so long that they keep a digest of their older tiles: it must never outlive a change."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.definitions.plan import Aggregate
from streamsvc.features.kernels.layout import HOLDS, RING_BLOCK, RINGS

from .oracle import Event
from .streams import FUNCTIONS, values
from .test_engine import Harness, relaxed

TILES = 40
AGGREGATES = [
    Aggregate(f"{function}_{column}", column, function, TILES, 1)  # type: ignore[arg-type]
    for function in FUNCTIONS
    for column in ("price", "units")
]
KEYS = (b"k", b"another")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("event"), st.sampled_from([0, 0, 1, 2, -1, -3, -20, -39]), values),
        st.tuples(st.sampled_from(["emit", "settle", "commit", "restore"])),
        st.tuples(st.just("advance"), st.integers(1, 25)),
    ),
    min_size=4,
    max_size=12,
)


def full_ring(rows: list[dict[str, Any]]) -> Harness:
    """Two keys with an event at each of `TILES` instants, all written."""
    harness = Harness(AGGREGATES)
    harness.apply(
        [
            Event(key, at, 0, 0, rows[(at + shift) % len(rows)])
            for at in range(1_000, 1_000 + TILES)
            for shift, key in enumerate(KEYS)
        ],
        0,
    )
    harness.settle()
    return harness


def holds(harness: Harness) -> bool:
    slots = harness.state._storage.state.slots
    return bool(slots[0, RINGS + RING_BLOCK] & HOLDS)


@settings(relaxed, max_examples=50)
@given(rows=st.lists(values, min_size=3, max_size=9), steps=steps)
def test_any_change_of_a_long_ring(rows: list[dict[str, Any]], steps: list[Any]) -> None:
    harness = full_ring(rows)
    for step, *rest in steps:
        if step == "event":
            at, row = rest
            event = Event(KEYS[len(harness.oracle.events) % 3 == 0], at, 0, 0, row)
            harness.apply([event], 0)
        elif step == "emit":
            harness.write(harness.state.emit())
        elif step == "advance":
            harness.advance(*rest)
        else:
            getattr(harness, step)()
    harness.settle()


def test_only_events_of_the_newest_tile_leave_it_as_it_is() -> None:
    row = {"price": 1.5, "units": 2, "rush": None, "shop": None}
    harness = full_ring([row, {**row, "units": -7}])
    assert holds(harness)
    now = harness.oracle.clock
    for at, left in ((now, True), (now - 5, False), (now + 1, False)):
        harness.feed([Event(KEYS[0], at, 0, harness.offset, row)])
        harness.offset += 1
        assert holds(harness) is left
        harness.settle()
        assert holds(harness)
