from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.columns import NumericColumn
from streamsvc.errors import ConfigurationError
from streamsvc.feast.arrow_columns import arrow_of, column_from_arrow, epoch_ms

texts = st.lists(st.one_of(st.none(), st.text(max_size=5)), max_size=20)


@given(
    texts, st.sampled_from([pa.string(), pa.large_string(), pa.string_view()]), st.integers(0, 5)
)
def test_text_is_text_however_it_is_cut(values: list[str | None], dtype: object, skip: int) -> None:
    whole = pa.array(values, dtype)
    sliced = whole.slice(min(skip, len(values)))
    chunked = pa.chunked_array([sliced, whole], dtype)
    assert column_from_arrow(sliced, "string", "x").to_pylist() == sliced.to_pylist()
    assert column_from_arrow(chunked, "string", "x").to_pylist() == chunked.to_pylist()


def test_text_may_be_a_dictionary() -> None:
    array = pa.array(["a", None, "b", "a"]).dictionary_encode()
    assert column_from_arrow(array, "string", "x").to_pylist() == ["a", None, "b", "a"]
    chunked = pa.chunked_array([array, array])
    assert column_from_arrow(chunked, "string", "x").to_pylist() == ["a", None, "b", "a"] * 2


@pytest.mark.parametrize(
    ("array", "kind", "expected"),
    [
        (pa.array([1, None, -3], pa.int8()), "int64", [1, None, -3]),
        (pa.array([1.0, float("nan"), None]), "int64", [1, None, None]),
        (pa.array([1.5, float("nan"), None]), "float64", [1.5, None, None]),
        (pa.array([1, None], pa.int32()), "float64", [1.0, None]),
        (pa.array([Decimal("1.25"), None]), "float64", [1.25, None]),
        (pa.array([True, None, False]), "bool", [True, None, False]),
        (pa.nulls(2), "float64", [None, None]),
        (pa.nulls(2), "bool", [None, None]),
        (pa.chunked_array([], pa.int64()), "int64", []),
        (pa.array([7, 8, None, 9]).slice(1), "int64", [8, None, 9]),
    ],
)
def test_numbers(array: object, kind: str, expected: list[object]) -> None:
    column = column_from_arrow(array, kind, "x")  # type: ignore[arg-type]
    assert column.to_pylist() == expected
    assert isinstance(column, NumericColumn)
    assert column.values.dtype == np.dtype({"bool": np.bool_}.get(kind, kind))


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1.5]), "int64"),
        (pa.array([2**63], pa.uint64()), "int64"),
        (pa.array(["1"]), "int64"),
        (pa.array(["1"]), "float64"),
        (pa.array([1]), "string"),
        (pa.array([1]), "bool"),
        (pa.array([True]), "int64"),
        (pa.array([datetime(2024, 1, 1, tzinfo=UTC)]), "int64"),
    ],
)
def test_another_type_is_named(array: object, kind: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^column 'x' is "):
        column_from_arrow(array, kind, "column 'x'")  # type: ignore[arg-type]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_instants_are_milliseconds_rounded_down(unit: str) -> None:
    per_second = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
    ticks = [0, per_second, None, 3 * per_second - 1, -1]
    for zone in (None, "UTC", "America/New_York"):
        column = epoch_ms(pa.array(ticks, pa.timestamp(unit, zone)))
        expected = [None if t is None else t * 1_000 // per_second for t in ticks]
        assert column.to_pylist() == expected


def test_a_column_of_nothing_is_text_too() -> None:
    assert column_from_arrow(pa.nulls(2), "string", "x").to_pylist() == [None, None]


def test_back_to_arrow() -> None:
    column = NumericColumn(np.array([1, 2]), np.array([True, False]))
    assert arrow_of(column, pa.float32()).equals(pa.array([1.0, None], pa.float32()))
