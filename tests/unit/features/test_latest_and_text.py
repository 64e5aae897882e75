"""The latest row, text, and all time: what is special about them."""

from __future__ import annotations

from typing import Any

import numpy as np

from streamsvc.columns import Column, numeric, strings
from streamsvc.definitions.plan import LIFETIME_MS, Aggregate
from streamsvc.features.engine import WindowState
from streamsvc.features.history import features_at
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch
from streamsvc.store.row import RowLayout

from .test_engine import free_units

TYPES: Any = {"name": "string", "big": "int64", "flag": "bool", "price": "float64"}
LATEST = WindowSpec.of([Aggregate(c, c, "latest", LIFETIME_MS, LIFETIME_MS) for c in TYPES], TYPES)


def columns_of(rows: list[tuple[Any, ...]]) -> dict[str, Column]:
    name, big, flag, price = zip(*rows, strict=True)
    empty = np.array
    found: dict[str, Column] = {"name": strings(name)}
    for column, values, dtype in (
        ("big", big, np.int64),
        ("flag", flag, np.bool_),
        ("price", price, np.float64),
    ):
        made = numeric([0 if v is None else v for v in values])
        found[column] = type(made)(
            empty(made.values, dtype), empty([v is not None for v in values])
        )
    return found


def apply(state: WindowState, at: list[int], rows: list[tuple[Any, ...]], **order: Any) -> None:
    n = len(rows)
    zeros = np.zeros(n, np.int64)
    state.apply(
        strings(["k"] * n),
        np.array(at, np.int64),
        np.array(order.get("partition", zeros), np.int64),
        np.array(order.get("offset", np.arange(n)), np.int64),
        columns_of(rows),
    )


def rows_of(state: WindowState) -> list[dict[str, Any]]:
    values = {name: column.to_pylist() for name, column in state.emit().values.items()}
    return [dict(zip(values, row, strict=True)) for row in zip(*values.values(), strict=True)]


def test_a_null_in_the_latest_row_is_null() -> None:
    state = WindowState(LATEST)
    apply(state, [10], [("ann", 2**62 + 1, True, 0.5)])
    assert rows_of(state) == [{"big": 2**62 + 1, "flag": True, "name": "ann", "price": 0.5}]
    apply(state, [11], [(None, None, None, float("nan"))])
    assert rows_of(state) == [{"big": None, "flag": None, "name": None, "price": None}]
    apply(state, [12], [("", 0, False, 0.0)])
    assert rows_of(state) == [{"big": 0, "flag": False, "name": "", "price": 0.0}]


def test_an_older_row_changes_nothing_and_ties_go_by_partition_and_offset() -> None:
    state = WindowState(LATEST)
    rows = [("d", 4, True, 4.0), ("a", 1, True, 1.0), ("c", 3, None, 3.0), ("b", 2, True, 2.0)]
    apply(state, [7, 6, 7, 7], rows, partition=[1, 9, 1, 0], offset=[3, 9, 4, 8])
    assert rows_of(state) == [{"big": 3, "flag": None, "name": "c", "price": 3.0}]


def test_the_latest_row_outlives_everything() -> None:
    state = WindowState(LATEST)
    apply(state, [-5], [("old", 1, False, 1.0)])
    rows = state.emit()
    assert rows.valid_until.tolist() == [2**63 - 1]
    state.advance(10**15)
    assert (state.n_due, state.next_due_ms, state.stats().keys) == (0, None, 1)
    restored = WindowState(LATEST)
    for piece in state.snapshot().slices(LATEST, 10):
        restored.load(TileBatch.from_bytes(piece.to_bytes()))
    restored.mark_all_changed()
    assert rows_of(restored) == [{"big": 1, "flag": False, "name": "old", "price": 1.0}]


def test_rows_of_text_reach_the_store_as_they_are() -> None:
    state = WindowState(LATEST)
    texts = ["", "x" * 5_000, None, "süß\N{SNOWMAN}"]
    for i, text in enumerate(texts):
        apply_key(state, f"key {i}", i, (text, i, True, 1.0))
    rows = state.emit()
    layout = RowLayout({"name": "String", "big": "Int64", "flag": "Bool", "price": "Float64"})
    packed = layout.pack(rows.values, 1, 2, rows.as_of, rows.valid_until)
    read = layout.unpack([packed.row(i) for i in range(len(packed))])
    assert read.values["name"].to_pylist() == texts
    assert read.values["big"].to_pylist() == [0, 1, 2, 3]


def apply_key(state: WindowState, key: str, at: int, row: tuple[Any, ...]) -> None:
    one = np.array([at])
    state.apply(strings([key]), one, one, one, columns_of([row]))


def test_text_goes_with_its_tile() -> None:
    """Blocks of text and sketches are given back when they are replaced and when tiles leave."""
    functions: Any = ("first", "last", "min", "max", "count_distinct", "latest")
    spec = WindowSpec.of(
        [Aggregate(f, "name", f, 10_000, 1_000) for f in functions]
        + [Aggregate("p50", "price", "p50", 10_000, 1_000)],
        TYPES,
    )
    state, rng = WindowState(spec), np.random.default_rng(0)
    sizes = []
    for step in range(200):
        names = [f"k{i}" for i in rng.integers(0, 40, 50)]
        at = 1_000_000 + step * 777 - rng.integers(0, 9_000, 50)
        texts = strings(["y" * int(n) for n in rng.integers(0, 300, 50)])
        columns = {"name": texts, "price": numeric(rng.gamma(2, 30, 50))}
        state.apply(strings(names), at, at * 0, np.arange(50), columns)
        state.emit()
        state.age()
        again = WindowState(spec)
        again.load(TileBatch.from_bytes(state.snapshot().to_bytes()))
        again.load(TileBatch.from_bytes(state.take_changed_tiles().to_bytes()))
        sizes.append(state.stats().bytes)
        state = again if step % 3 == 0 else state
    assert sizes[-1] <= 2 * sizes[20]
    state.advance(10_000_000)
    state.age()
    assert (state.stats().keys, state.stats().tiles) == (0, 0)
    assert free_units(state) == len(state._storage.state.tags)


def test_words_of_columns_that_share_a_buffer() -> None:
    """Columns cut out of the same record, and columns with bytes of their own."""
    shared = strings(["left", "right", "up"])
    spec = WindowSpec.of(
        [Aggregate(c, c, "last", 10, 1) for c in ("a", "b", "c")],
        dict.fromkeys(("a", "b", "c"), "string"),
    )
    columns = {
        "a": shared.take(np.array([0])),
        "b": strings(["other"]),
        "c": shared.take(np.array([2])),
    }
    one = np.array([1])
    state = WindowState(spec)
    state.apply(strings(["k"]), one, one, one, columns)
    values = state.emit().values
    assert [values[c].to_pylist() for c in "abc"] == [["left"], ["other"], ["up"]]


def test_text_of_many_queries_of_the_past() -> None:
    """More text than there is room for at first, of a key whose tiles are gone when it is read."""
    n = 500
    texts = ["z" * (i % 97) for i in range(n)]
    keys = strings([f"k{i % 5}" for i in range(n)])
    at = np.arange(n) * 10
    spec = WindowSpec.of([Aggregate("t", "t", "last", 1_000, 100)], {"t": "string"})
    found = features_at(spec, keys, at, at * 0, at, {"t": strings(texts)}, keys, at)
    assert found["t"].to_pylist() == texts
