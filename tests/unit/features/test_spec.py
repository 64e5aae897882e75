from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import Aggregate
from streamsvc.errors import DefinitionError, IntegrityError
from streamsvc.features.engine import WindowState
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch


def test_every_mistake_is_named() -> None:
    unknown: Any = "median"
    with pytest.raises(DefinitionError) as error:
        WindowSpec.of(
            [
                Aggregate("a", "nothing", "sum", 10, 1),
                Aggregate("b", "name", "mean", 10, 1),
                Aggregate("c", "x", unknown, 10, 1),
                Aggregate("d", "x", "sum", 10, 0),
            ],
            {"x": "float64", "name": "string"},
        )
    assert [m[0] for m in error.value.mistakes] == ["a", "b", "c", "d"]
    with pytest.raises(DefinitionError):
        WindowSpec.of([], {})


def test_types_follow_function_and_column() -> None:
    functions: Any = ("count", "sum", "mean", "min", "std", "last")
    types: Any = {"f": "float64", "i": "int64", "b": "bool"}
    spec = WindowSpec.of(
        [Aggregate(f"{fn}_{c}", c, fn, 10, 1) for fn in functions for c in types], types
    )
    assert [spec.types[f"{fn}_i"] for fn in functions] == [
        "int64",
        "int64",
        "float64",
        "int64",
        "float64",
        "int64",
    ]
    assert spec.types["min_b"] == spec.types["last_b"] == "bool"
    assert spec.types["sum_b"] == "int64"
    assert spec.types["sum_f"] == spec.types["last_f"] == "float64"


def test_windows_of_one_hop_share_tiles_and_keep_only_what_is_asked() -> None:
    spec = WindowSpec.of(
        [
            Aggregate("a", "x", "count", 10, 2),
            Aggregate("b", "x", "mean", 60, 2),
            Aggregate("c", "x", "last", 60, 5),
        ],
        {"x": "float64"},
    )
    assert spec.program.hop.tolist() == [2, 5]
    # Header, count and sum; header, count and four words of the last value.
    assert spec.program.stride.tolist() == [3, 6]


def test_integers_beyond_2_53_stay_exact() -> None:
    functions: Any = ("sum", "min", "max", "first", "last")
    spec = WindowSpec.of([Aggregate(f, "x", f, 10, 1) for f in functions], {"x": "int64"})
    state = WindowState(spec)
    big = 2**60
    state.apply(
        strings(["k", "k", "k"]),
        np.array([5, 3, 4]),
        np.zeros(3, np.int64),
        np.arange(3),
        {"x": numeric([big + 1, big + 3, 1])},
    )
    values = {n: c.to_pylist() for n, c in state.emit().values.items()}
    assert values == {
        "first": [big + 3],
        "last": [big + 1],
        "max": [big + 3],
        "min": [1],
        "sum": [2 * big + 5],
    }


def test_ties_of_event_time_go_by_partition_then_offset() -> None:
    functions: Any = ("first", "last")
    spec = WindowSpec.of([Aggregate(f, "x", f, 10, 1) for f in functions], {"x": "int64"})
    state = WindowState(spec)
    state.apply(
        strings(["k"] * 4),
        np.full(4, 7),
        np.array([1, 0, 1, 0]),
        np.array([5, 9, 4, 2]),
        {"x": numeric([1, 2, 3, 4])},
    )
    values = state.emit().values
    assert values["first"].to_pylist() == [4]
    assert values["last"].to_pylist() == [1]


def test_a_column_of_another_type_is_refused() -> None:
    spec = WindowSpec.of([Aggregate("a", "x", "sum", 10, 1)], {"x": "int64"})
    one = np.array([1])
    with pytest.raises(TypeError, match="'x' is float64"):
        WindowState(spec).apply(strings(["k"]), one, one, one, {"x": numeric([1.5])})
    with pytest.raises(TypeError, match="strings"):
        WindowState(spec).apply(strings(["k"]), one, one, one, {"x": strings(["1"])})


def test_a_batch_of_another_definition_is_refused() -> None:
    one = np.array([1])
    small = WindowSpec.of([Aggregate("a", "x", "sum", 10, 1)], {"x": "int64"})
    large = WindowSpec.of([Aggregate("a", "x", "std", 10, 1)], {"x": "int64"})
    state = WindowState(small)
    state.apply(strings(["k"]), one, one, one, {"x": numeric([1])})
    batch = state.take_changed_tiles()
    with pytest.raises(IntegrityError, match="another definition"):
        WindowState(large).load(batch)
    with pytest.raises(IntegrityError, match="cut short"):
        TileBatch.from_bytes(batch.to_bytes()[:-1])
    with pytest.raises(IntegrityError, match="not a tile batch"):
        TileBatch.from_bytes(b"")


SKETCHES = WindowSpec.of(
    [
        Aggregate("n", "x", "count_distinct", 1_000, 10),
        Aggregate("p", "x", "p50", 1_000, 10),
        Aggregate("t", "t", "last", 1_000, 10),
    ],
    {"x": "int64", "t": "string"},
)


def sketched(n: int = 5_000) -> WindowState:
    state = WindowState(SKETCHES)
    rows = np.arange(n)
    columns = {"x": numeric(rows * 7), "t": strings([f"text {i}" for i in rows.tolist()])}
    state.apply(strings(["k", "another"] * (n // 2)), rows * 900 // n, rows * 0, rows, columns)
    state.emit()
    return state


def test_a_key_too_large_for_a_record_is_cut_between_tiles() -> None:
    whole = sketched().snapshot()
    assert len(whole) == 180
    pieces = list(whole.slices(SKETCHES, 2_000))
    assert len(pieces) > 20
    assert all(len(piece.to_bytes()) < 4_000 or len(piece) == 1 for piece in pieces)
    assert sum(map(len, pieces)) == len(whole)
    again = WindowState(SKETCHES)
    for piece in pieces:
        again.load(TileBatch.from_bytes(piece.to_bytes()))
    assert again.snapshot().to_bytes() == whole.to_bytes()


def test_payload_of_another_definition_is_refused() -> None:
    """Whatever a batch says, nothing is read or written beyond what was made for it."""
    good = sketched(40).snapshot()
    assert good.payload is not None
    with pytest.raises(IntegrityError, match="another definition"):
        WindowState(SKETCHES).load(replace(good, payload=None))
    with pytest.raises(IntegrityError):
        WindowState(SKETCHES).load(replace(good, payload=-good.payload))
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(300):
        words = good.words.copy()
        at = int(rng.integers(0, len(words)))
        words[at] = int(rng.choice([-1, 2**62, 1, 3, 512, 2_048, int(words[at]) + 1]))
        state = WindowState(SKETCHES)
        try:
            state.load(replace(good, words=words))
        except IntegrityError:
            refused += 1
            continue
        state.mark_all_changed()
        state.emit()
    assert refused > 50


def payload_of(function: str, values: Any, change: Any) -> TileBatch:
    """A batch of one tile with one sketch, whose words `change` was handed."""
    spec = WindowSpec.of([Aggregate("f", "x", function, 1_000, 1_000)], {"x": "float64"})
    state, n = WindowState(spec), len(values)
    zeros = np.zeros(n, np.int64)
    state.apply(strings(["k"] * n), zeros, zeros, np.arange(n), {"x": numeric(values)})
    batch = state.snapshot()
    words = batch.words.copy()
    change(words[-int(batch.payload[0]) :])  # type: ignore[index]
    return replace(batch, words=words)


def put(place: int, word: int) -> Any:
    def change(words: Any) -> None:
        words[place] = word

    return change


def swap(words: Any) -> None:
    words[1], words[2] = int(words[2]), int(words[1])


@pytest.mark.parametrize(
    ("function", "n", "change"),
    [
        # A register says how many zeros there were: an index to the estimator.
        ("count_distinct", 2_000, put(3, 54 << 8)),
        ("count_distinct", 2_000, put(3, -1)),
        ("count_distinct", 2_000, put(3, 0x75 << 56)),
        ("count_distinct", 20, put(3, 1 << 26 | 40)),
        ("count_distinct", 20, put(3, (1 << 26 | 63) << 32)),
        # A union finds its buckets between the first and the last.
        ("p50", 20, swap),
        ("p50", 20, put(2, 5)),
        ("p50", 20, put(2, -(2**62))),
        ("p50", 20, put(0, 0)),
    ],
)
def test_sketches_that_point_beyond_themselves_are_refused(
    function: str, n: int, change: Any
) -> None:
    spec = WindowSpec.of([Aggregate("f", "x", function, 1_000, 1_000)], {"x": "float64"})
    values = np.random.default_rng(1).normal(size=n)
    WindowState(spec).load(payload_of(function, values, lambda words: None))
    with pytest.raises(IntegrityError, match="another definition"):
        WindowState(spec).load(payload_of(function, values, change))


def test_counts_and_lengths_that_do_not_add_up_are_refused() -> None:
    good = sketched(40).snapshot()
    tiles = good.tiles.copy()
    tiles[0], tiles[1] = tiles.sum() + 5, -5
    with pytest.raises(IntegrityError, match="another definition"):
        WindowState(SKETCHES).load(replace(good, tiles=tiles))
    raw = bytearray(good.to_bytes())
    for least in (0, 2, -1):
        struct.pack_into("<q", raw, 56, least)  # of the lengths, which are 1 and 7
        with pytest.raises(IntegrityError, match="cut short"):
            TileBatch.from_bytes(bytes(raw))


@pytest.mark.parametrize("place", [16, 32])  # how many keys, how many tiles
def test_more_keys_or_tiles_than_bytes_are_refused(place: int) -> None:
    """Where all have the same length and instant, there are no columns that would be too short."""
    raw = bytearray(one_tile().to_bytes())
    struct.pack_into("<Q", raw, place, 1 << 60)
    with pytest.raises(IntegrityError, match="cut short"):
        TileBatch.from_bytes(bytes(raw))


def test_a_batch_takes_what_its_numbers_need() -> None:
    """Header, words and keys; of the numbers only the lengths, once they differ."""
    assert len(one_tile().to_bytes()) == 104 + 8 * 2 + 1
    assert len(one_tile("k", "l", "mn", "op").to_bytes()) == 104 + 8 * 8 + 6 + 4


def one_tile(*keys: str) -> TileBatch:
    spec = WindowSpec.of([Aggregate("s", "x", "sum", 10, 1)], {"x": "int64"})
    state, n = WindowState(spec), len(keys or "k")
    same = np.full(n, 3)
    state.apply(strings(list(keys or "k")), same, same, same, {"x": numeric([7] * n)})
    return state.take_changed_tiles()
