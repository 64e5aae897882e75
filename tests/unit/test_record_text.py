"""Columns become the JSON that `json` makes of their values."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamsvc.columns import Column, NumericColumn, strings
from streamsvc.record_text import Json, choices, constant, entity_texts, filled, members

KINDS: dict[str, tuple[st.SearchStrategy[Any], Any]] = {
    "int": (st.integers(-(2**63), 2**63 - 1), np.int64),
    "bool": (st.booleans(), np.bool_),
    "double": (st.floats(), np.float64),
    "float": (st.floats(width=32), np.float32),
    "text": (st.text(max_size=9), None),
    "ascii": (st.text('ab "\\\x00\x1f\x7f', max_size=9), None),
}


def column(kind: str, values: list[Any]) -> Column:
    dtype = KINDS[kind][1]
    if dtype is None:
        return strings(values)
    valid = np.array([v is not None for v in values], np.bool_)
    return NumericColumn(np.array([0 if v is None else v for v in values], dtype), valid)


@st.composite
def tables(draw: st.DrawFn) -> tuple[dict[str, str], list[dict[str, Any]]]:
    kinds = draw(st.dictionaries(st.text(max_size=4), st.sampled_from(sorted(KINDS)), min_size=1))
    row = st.fixed_dictionaries({n: st.none() | KINDS[kind][0] for n, kind in kinds.items()})
    return kinds, draw(st.lists(row, max_size=8))


def told(value: Any) -> Any:
    """JSON has no number for NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@given(tables())
def test_objects(table: tuple[dict[str, str], list[dict[str, Any]]]) -> None:
    kinds, rows = table
    columns = {name: column(kind, [row[name] for row in rows]) for name, kind in kinds.items()}
    found = filled(b"{", *members(columns), b"}").to_bytes_list()
    for text, row in zip(found, rows, strict=True):
        assert text is not None
        read = json.loads(text)
        for name, kind in kinds.items():
            want = told(row[name])
            got = read[name] if kind != "float" or want is None else float(np.float32(read[name]))
            assert got == want
            assert type(got) is type(want)


@given(st.lists(st.none() | st.text(max_size=5), min_size=1, max_size=6), st.binary(max_size=3))
def test_texts_stand_as_they_are(texts: list[str | None], same: bytes) -> None:
    found = filled(same, strings(texts), same, np.arange(len(texts)) - 2).to_bytes_list()
    want = [same + (t or "").encode() + same + b"%d" % (i - 2) for i, t in enumerate(texts)]
    assert found == want


def test_a_few_texts_of_a_long_buffer() -> None:
    column = strings(["x" * 20_000, None, "ab", "c", "y" * 20_000]).take(np.array([2, 1, 3]))
    assert filled(column, b"-", Json(column)).to_pylist() == ['ab-"ab"', "-null", 'c-"c"']
    nothing = column.take(np.array([1]))
    assert filled(nothing, b"-").to_pylist() == ["-"]


def test_bytes_that_are_no_text_are_replaced() -> None:
    assert filled(Json(strings([b"\xff'", b"ok"]))).to_pylist() == ['"\ufffd\'"', '"ok"']


def test_columns_are_of_one_length() -> None:
    with pytest.raises(ValueError, match="column 1 has not 2 rows"):
        filled(strings(["a", "b"]), np.array([7]))


def test_a_choice_is_a_text_by_its_number() -> None:
    texts = [constant("a"), b"null"]
    assert choices(texts, np.array([1, 0, 1])).to_pylist() == ["null", '"a"', "null"]


def test_keys_are_spread_by_what_a_producer_would_write() -> None:
    entity = {
        "b": strings(["x", None]),
        "a": NumericColumn(np.array([True, False]), np.ones(2, bool)),
    }
    assert entity_texts(entity).to_pylist() == ["1|x", "0|"]
