from __future__ import annotations

import math
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import BytesColumn, Column, NumericColumn, numeric, strings
from streamsvc.store.row import NEVER_MS, RowLayout

I64 = st.integers(-(2**63), 2**63 - 1)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "Float64": st.floats(),
    "Float32": st.floats(width=32),
    "Int64": I64,
    "Int32": st.integers(-(2**31), 2**31 - 1),
    "UnixTimestamp": I64,
    "Bool": st.booleans(),
    "String": st.text(max_size=20),
    "Bytes": st.binary(max_size=20),
    "Array(Int64)": st.binary(max_size=20),
}


def column(kind: str, values: list[Any]) -> Column:
    if kind in ("String", "Bytes", "Array(Int64)"):
        return strings(values)
    dtype = {"Float64": np.float64, "Float32": np.float64, "Bool": np.bool_}.get(kind, np.int64)
    return NumericColumn(
        np.array([0 if v is None else v for v in values], dtype),
        np.array([v is not None for v in values], np.bool_),
    )


def plain_row(
    types: dict[str, str], row: dict[str, Any], at: tuple[int, int, int], until: int
) -> bytes:
    """The documented bytes, built one value at a time."""
    names = sorted(types)
    fingerprint = zlib.crc32("\n".join(f"{n}:{types[n]}" for n in names).encode())
    out = struct.pack(">IQQ", at[0], at[1], at[2] + 2**63) + struct.pack("<Iq", fingerprint, until)
    bits = sum(1 << i for i, n in enumerate(names) if row[n] is not None)
    out += bits.to_bytes(-(-len(names) // 64) * 8, "little")
    tail = b""
    for name in names:
        value = row[name]
        if value is None:
            out += bytes(8)
        elif types[name].startswith("Float"):
            out += struct.pack("<d", value)
        elif isinstance(value, bool | int):
            out += struct.pack("<q", value)
        else:
            raw = value.encode() if isinstance(value, str) else value
            out += struct.pack("<II", len(tail), len(raw))
            tail += raw
    return out + tail + bytes(-len(tail) % 8)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float) and math.isnan(a):
        return math.isnan(b)
    return type(a) is type(b) and a == b


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, str], list[dict[str, Any]]]:
    size = draw(st.integers(0, 70) if draw(st.booleans()) else st.integers(0, 6))
    types = {f"f{i}": draw(st.sampled_from(sorted(VALUES))) for i in range(size)}
    row = st.fixed_dictionaries({n: st.none() | VALUES[t] for n, t in types.items()})
    return types, draw(st.lists(row, max_size=5))


@settings(deadline=None, max_examples=150)
@given(tables(), st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1), st.data())
def test_rows_are_the_documented_bytes_and_come_back(
    table: tuple[dict[str, str], list[dict[str, Any]]], incarnation: int, offset: int, data: Any
) -> None:
    types, rows = table
    stamps = st.lists(I64, min_size=len(rows), max_size=len(rows))
    as_of, until = data.draw(stamps), data.draw(stamps)
    layout = RowLayout(types)
    packed = layout.pack(
        {n: column(t, [r[n] for r in rows]) for n, t in types.items()},
        incarnation,
        offset,
        np.array(as_of, np.int64),
        np.array(until, np.int64),
    )
    raw = [packed.row(i) for i in range(len(rows))]
    assert raw == [
        plain_row(types, r, (incarnation, offset, a), u)
        for r, a, u in zip(rows, as_of, until, strict=True)
    ]

    gaps: list[bytes | None] = [None]
    for r in raw:
        gaps += [r, None]
    read = layout.unpack(gaps)
    assert read.present.tolist() == [r is not None for r in gaps]
    assert read.foreign == 0
    assert read.incarnation[1::2].tolist() == [incarnation] * len(rows)
    assert read.offset[1::2].tolist() == [offset] * len(rows)
    assert read.as_of[1::2].tolist() == as_of
    assert read.valid_until[1::2].tolist() == until
    some = data.draw(st.sets(st.sampled_from(sorted(types)))) if types else set()
    part = RowLayout(types, some).unpack(gaps)
    assert part.present.tolist() == read.present.tolist()
    assert sorted(part.values) == sorted(some)
    for name in some:
        whole = (
            read.values[name].to_bytes_list()
            if isinstance(read.values[name], BytesColumn)
            else None
        )
        if whole is not None:
            assert part.values[name].to_bytes_list() == whole
        else:
            np.testing.assert_array_equal(part.values[name].values, read.values[name].values)
            np.testing.assert_array_equal(part.values[name].valid, read.values[name].valid)
    for name, kind in types.items():
        found = read.values[name]
        got = found.to_bytes_list() if isinstance(found, BytesColumn) else found.to_pylist()
        assert got[::2] == [None] * (len(rows) + 1)
        want = [r[name].encode() if isinstance(r[name], str) else r[name] for r in rows]
        assert all(same(g, w) for g, w in zip(got[1::2], want, strict=True)), kind


POSITIONS = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1), I64)


@given(POSITIONS, POSITIONS)
def test_positions_sort_as_bytes(a: tuple[int, int, int], b: tuple[int, int, int]) -> None:
    layout = RowLayout({})

    def position(p: tuple[int, int, int]) -> bytes:
        stamp = np.array([p[2]], np.int64)
        return layout.pack({}, p[0], p[1], stamp, stamp).row(0)[:20]

    assert (position(a) < position(b)) == (a < b)


def test_another_schemas_rows_are_absent_and_counted() -> None:
    zero = np.zeros(1, np.int64)
    old = RowLayout({"a": "Float64"}).pack({"a": numeric([1.0])}, 1, 1, zero, zero).row(0)
    new = RowLayout({"a": "Int64"})
    row = new.pack({"a": numeric([5])}, 1, 1, zero, zero).row(0)
    read = new.unpack([old, row, b"", b"junk", row[:32], old + bytes(8), None])
    assert read.present.tolist() == [False, True, False, False, False, False, False]
    assert read.foreign == 4
    assert read.values["a"].to_pylist() == [None, 5, None, None, None, None, None]


def test_a_tail_that_points_outside_its_row_is_damaged() -> None:
    layout = RowLayout({"s": "String"})
    zero = np.zeros(1, np.int64)
    row = layout.pack({"s": strings(["abc"])}, 1, 1, zero, zero).row(0)
    damaged = row[:40] + struct.pack("<II", 6, 3) + row[48:]
    read = layout.unpack([row, damaged])
    assert read.present.tolist() == [True, False]
    assert read.foreign == 1


def test_the_fingerprint_does_not_depend_on_the_order_of_declaration() -> None:
    a = RowLayout({"x": "Int64", "y": "Bool"})
    b = RowLayout({"y": "Bool", "x": "Int64"})
    assert a.fingerprint == b.fingerprint
    assert a.fingerprint != RowLayout({"x": "Bool", "y": "Int64"}).fingerprint


@pytest.mark.parametrize(
    ("kind", "values", "stored"),
    [
        ("Float64", numeric([1, 2**60, None]), [1.0, float(2**60), None]),
        ("Float32", numeric([0.1, 1e300]), [float(np.float32(0.1)), math.inf]),
        ("Int64", numeric([2.9, -2.9, 1e30, math.nan, None]), [2, -2, None, None, None]),
        (
            "Int32",
            numeric([2**31 - 1, 2**31, -(2**31), -(2**31) - 1]),
            [2**31 - 1, None, -(2**31), None],
        ),
        ("Int32", numeric([1.5, 3e9]), [1, None]),
        ("Bool", numeric([2, 0]), [True, False]),
        ("Int64", numeric([True, False]), [1, 0]),
    ],
)
def test_numbers_take_their_features_type(
    kind: str, values: NumericColumn, stored: list[Any]
) -> None:
    layout = RowLayout({"f": kind})
    stamps = np.zeros(len(values), np.int64)
    packed = layout.pack({"f": values}, 0, 0, stamps, np.full(len(values), NEVER_MS))
    read = layout.unpack([packed.row(i) for i in range(len(values))])
    assert read.values["f"].to_pylist() == stored


def test_values_of_the_wrong_kind_are_refused() -> None:
    zero = np.zeros(1, np.int64)
    with pytest.raises(TypeError, match="'s' is String"):
        RowLayout({"s": "String"}).pack({"s": numeric([1])}, 0, 0, zero, zero)
    with pytest.raises(TypeError, match="'x' is Int64"):
        RowLayout({"x": "Int64"}).pack({"x": strings(["1"])}, 0, 0, zero, zero)
