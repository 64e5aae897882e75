"""Distinct counts against the exact ones, on skewed data of every type."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import Column, NumericColumn, numeric, strings
from streamsvc.definitions.plan import LIFETIME_MS, Aggregate, FieldType
from streamsvc.features.engine import WindowState
from streamsvc.features.kernels.hashing import hash_text
from streamsvc.features.kernels.jit import kernel
from streamsvc.features.kernels.pointers import pointer
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch

ERROR = 1.04 / 64
"""Standard error, relative, beyond 511 values."""
DAY = 86_400_000


def spec_of(kind: FieldType, window: int = DAY, hop: int = DAY // 24) -> WindowSpec:
    return WindowSpec.of([Aggregate("n", "v", "count_distinct", window, hop)], {"v": kind})


def apply(state: WindowState, values: Column, time: Any, key: str = "k") -> None:
    n = len(values)
    at = np.broadcast_to(np.asarray(time, np.int64), n)
    state.apply(strings([key] * n), at, np.zeros(n, np.int64), np.arange(n), {"v": values})


def counted(state: WindowState) -> Any:
    (found,) = state.emit().values["n"].to_pylist()
    return found


def text_of(numbers: Any) -> Column:
    return strings([f"user-{n}" for n in numbers.tolist()])


@pytest.mark.parametrize("kind", ["string", "int64", "float64"])
@pytest.mark.parametrize("exact", [1, 7, 8, 100, 511])
def test_up_to_511_values_are_counted_exactly(kind: FieldType, exact: int) -> None:
    rng = np.random.default_rng(exact)
    for _ in range(5):
        values = rng.choice(2**40, exact, replace=False)
        drawn = np.concatenate((values, rng.choice(values, 3 * exact)))
        column = {
            "string": text_of,
            "int64": numeric,
            "float64": lambda v: numeric(v / 3.0),
        }[kind](drawn)
        state = WindowState(spec_of(kind))
        apply(state, column, rng.integers(DAY, 2 * DAY, len(drawn)))
        assert counted(state) == exact


@pytest.mark.parametrize("exact", [512, 600, 2_000, 10_000, 100_000])
def test_beyond_that_the_error_is_what_hyperloglog_promises(exact: int) -> None:
    """Over 40 keys with sets of their own: no bias, the promised spread, nothing beyond 4 sigma."""
    rng = np.random.default_rng(exact)
    errors = []
    state = WindowState(spec_of("int64"))
    for key in range(40):
        values = rng.integers(-(2**62), 2**62, exact)
        apply(state, numeric(values), rng.integers(DAY, 2 * DAY, exact), f"k{key}")
    for found in state.emit().values["n"].to_pylist():
        assert found is not None
        errors.append(found / exact - 1)
    assert np.max(np.abs(errors)) < 4 * ERROR
    assert np.std(errors) < 1.4 * ERROR
    assert abs(np.mean(errors)) < 4 * ERROR / np.sqrt(len(errors))


def test_zipf_over_many_tiles() -> None:
    """A few values make up most events, most values come once."""
    rng = np.random.default_rng(3)
    values = rng.zipf(1.2, 200_000) % 10**9
    at = np.sort(rng.integers(DAY, 2 * DAY, len(values)))
    state = WindowState(spec_of("string"))
    apply(state, text_of(values), at)
    left = (at[-1] - DAY) // (DAY // 24) * (DAY // 24)
    exact = len(np.unique(values[at >= left]))
    assert exact > 5_000
    assert counted(state) == pytest.approx(exact, rel=4 * ERROR)


def test_what_is_the_same_value_is_counted_once() -> None:
    cases: list[tuple[FieldType, Column, int]] = [
        ("float64", numeric([0.0, -0.0, 1.0, float("nan"), None]), 2),
        ("int64", NumericColumn(np.array([0, 2**53, 2**53 + 1, 7]), np.arange(4) < 3), 3),
        ("bool", numeric([True, False, True, None]), 2),
        ("string", strings(["", "a", "a ", "a", None, "ä"]), 4),
        ("string", strings([None]), 0),
        ("float64", numeric([float("nan")]), 0),
    ]
    for kind, column, exact in cases:
        state = WindowState(spec_of(kind))
        apply(state, column, 5)
        assert counted(state) == exact


def test_the_estimate_depends_on_the_set_alone() -> None:
    """Not on order, repetition, chunks, tiles, or a restart in the middle."""
    rng = np.random.default_rng(0)
    for size in (400, 511, 512, 3_000):
        values = np.arange(size) * 977
        found = set()
        for hop in (DAY, DAY // 2, DAY // 96, 1_000):
            drawn = rng.permutation(np.concatenate((values, values[:300])))
            at = rng.integers(DAY, DAY + DAY // 2, len(drawn))
            spec = spec_of("int64", hop=hop)
            state = WindowState(spec)
            for low in range(0, len(drawn), 700):
                apply(state, numeric(drawn[low : low + 700]), at[low : low + 700])
                again = WindowState(spec)
                for piece in state.snapshot().slices(spec, 5_000):
                    again.load(TileBatch.from_bytes(piece.to_bytes()))
                state = again
            state.mark_all_changed()
            found.add(counted(state))
        lifetime = WindowState(spec_of("int64", LIFETIME_MS, LIFETIME_MS))
        apply(lifetime, numeric(values), -5)
        assert found == {counted(lifetime)}


def murmur64a(data: bytes, seed: int = 0x9E3779B97F4A7C15) -> int:
    """Appleby's MurmurHash64A, written down anew from its description."""
    m, r, mask = 0xC6A4A7935BD1E995, 47, 2**64 - 1
    h = seed ^ (len(data) * m & mask)
    whole = len(data) // 8 * 8
    for i in range(0, whole, 8):
        k = int.from_bytes(data[i : i + 8], "little") * m & mask
        k = (k ^ k >> r) * m & mask
        h = (h ^ k) * m & mask
    if data[whole:]:
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ h >> r) * m & mask
    return h ^ h >> r


@kernel
def _hash(data: Any, start: int, length: int) -> int:
    return hash_text(pointer(data), start, length)


@settings(deadline=None)
@given(st.binary(max_size=40), st.binary(max_size=9))
def test_text_is_hashed_as_published(text: bytes, before: bytes) -> None:
    """Sketches outlive a version: a change of the hash would count everything twice."""
    data = np.frombuffer(before + text + b"behind", np.uint8)
    assert int(_hash(data, len(before), len(text))) % 2**64 == murmur64a(text)


def test_a_second_opinion() -> None:
    """Apache DataSketches, where it is installed: both err within their bounds of the truth."""
    datasketches = pytest.importorskip("datasketches")
    rng = np.random.default_rng(9)
    values = rng.zipf(1.15, 300_000) % 10**12
    theirs = datasketches.hll_sketch(12)
    for value in np.unique(values).tolist():
        theirs.update(value)
    state = WindowState(spec_of("int64"))
    apply(state, numeric(values), 7)
    assert counted(state) == pytest.approx(theirs.get_estimate(), rel=4 * np.sqrt(2) * ERROR)
