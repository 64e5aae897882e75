"""States that saw parts of the events, merged, are what one state makes of all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.columns import NumericColumn, strings
from streamsvc.definitions.plan import Aggregate
from streamsvc.entity_keys import murmur2
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch

from .streams import TYPES, as_columns, event_lists, placed, specs
from .test_engine import Harness, canonical, relaxed

PARTS = 3


@relaxed
@given(
    specs(),
    event_lists(max_size=40),
    st.lists(st.integers(0, PARTS - 1), min_size=40, max_size=40),
    st.sampled_from([0, -10_000_003, 1_700_000_000_123]),
)
def test_merged_states_equal_the_definition(
    aggregates: list[Any], drawn: list[Any], part_of: list[int], origin: int
) -> None:
    events = placed(drawn, origin, 0)
    harness = Harness(aggregates)
    clock = max((e.time for e in events), default=origin)
    harness.oracle.add(events)
    harness.late = {e.key for e in events}
    harness.state.advance(clock)
    for part in range(PARTS):
        state = WindowState(harness.spec)
        state.advance(clock)
        mine = [e for e, p in zip(events, part_of, strict=False) if p == part]
        if mine:
            state.apply(*as_columns(mine))
        tiles = state.snapshot()
        assert state.n_due == 0
        for piece in tiles.split(harness.spec, murmur2(tiles.keys) % 2, 2):
            harness.state.merge(TileBatch.from_bytes(piece.to_bytes()))
    assert harness.state.n_changed == 0
    harness.check_due()
    harness.state.mark_all_changed()
    harness.settle()


@pytest.mark.parametrize("function", ["count_distinct", "p50", "latest", "min", "last"])
@pytest.mark.parametrize("kind", ["float64", "string"])
@pytest.mark.parametrize("sizes", [(200, 200), (2_000, 3), (3, 2_000), (5_000, 5_000)])
def test_large_tiles_are_those_of_one_state(
    function: str, kind: str, sizes: tuple[int, int]
) -> None:
    if function == "p50" and kind == "string":
        pytest.skip("no percentiles of text")
    rng = np.random.default_rng(sum(sizes))
    spec = WindowSpec.of([Aggregate("f", "v", function, 60_000, 1_000)], {"v": kind})  # type: ignore[arg-type,dict-item]
    one, merged = WindowState(spec), WindowState(spec)
    for part, n in enumerate(sizes):
        state = WindowState(spec)
        numbers = rng.lognormal(0, 30, n) * rng.choice([-1, 1], n)
        values: Any = strings([f"{x:g}" for x in numbers])
        if kind == "float64":
            values = NumericColumn(numbers, np.ones(n, np.bool_))
        key = strings([b"k"] * n)
        at, partition, offset = rng.integers(0, 3_000, n), np.full(n, part), np.arange(n)
        for target in (state, one):
            target.advance(3_000)
            target.apply(key, at, partition, offset, {"v": values})
        merged.merge(state.snapshot())
    assert canonical(spec, merged.snapshot()) == canonical(spec, one.snapshot())


def test_a_split_gives_every_key_its_tiles() -> None:
    spec = WindowSpec.of([Aggregate("f", "shop", "last", 60, 10)], TYPES)
    state = WindowState(spec)
    n = 500
    keys = strings([f"key {i % 50}" for i in range(n)])
    shops = {"shop": strings([f"shop {i}" for i in range(n)])}
    state.apply(keys, np.arange(n) // 10, np.zeros(n, np.int64), np.arange(n), shops)
    whole = state.snapshot()
    parts = whole.split(spec, murmur2(whole.keys) % 4, 4)
    assert sum(len(p.keys) for p in parts) == 50
    loaded = WindowState(spec)
    for number, part in enumerate(parts):
        assert (murmur2(part.keys) % 4 == number).all()
        loaded.load(part)
    assert canonical(spec, loaded.snapshot()) == canonical(spec, whole)
