"""Frames for udfs: dtypes follow from the types, and what comes back is checked."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from streamsvc.columns import NumericColumn, numeric, strings
from streamsvc.events.frames import from_frame, kept_rows, to_frame

BIG = 2**63 - 1
TIMES = np.array([0, 1_500, 1_357_017_300_250], np.int64)
COLUMNS = {
    "id": numeric([BIG, None, 3]),
    "amount": numeric([1.5, None, -0.0]),
    "ok": numeric([True, None, False]),
    "shop": strings(["a", None, "é"]),
    "ts": strings(["x", "y", "z"]),
}


def test_a_column_does_not_look_different_when_a_chunk_holds_no_null():
    whole = to_frame(COLUMNS, times={"ts": TIMES})
    full = np.array([0, 2])
    part = to_frame({k: c.take(full) for k, c in COLUMNS.items()}, times={"ts": TIMES[full]})
    assert whole.dtypes.to_dict() == part.dtypes.to_dict()
    assert {name: str(dtype) for name, dtype in whole.dtypes.items()} == {
        "id": "Int64",
        "amount": "float64",
        "ok": "boolean",
        "shop": "str",
        "ts": "datetime64[ms, UTC]",
    }
    assert whole.id[0] == BIG
    assert whole.isna().sum().to_dict() == {"id": 1, "amount": 1, "ok": 1, "shop": 1, "ts": 0}
    assert whole.ts[2] == pd.Timestamp("2013-01-01T05:15:00.250Z")
    assert list(whole.index) == [0, 1, 2]


def test_columns_that_cannot_be_null_are_plain():
    frame = to_frame({"n": numeric([1, 2]), "b": numeric([True, False])}, required={"n", "b"})
    assert [str(dtype) for dtype in frame.dtypes] == ["int64", "bool"]


def test_names_choose_and_order():
    assert list(to_frame(COLUMNS, ["shop", "id"]).columns) == ["shop", "id"]
    assert len(to_frame(COLUMNS, [])) == 3
    assert len(to_frame({})) == 0


@pytest.mark.parametrize("required", [(), ("n", "b", "x")])
def test_a_udf_that_writes_into_its_frame_does_not_write_into_the_chunk(required):
    columns = {"n": numeric([1, 2]), "b": numeric([True, True]), "x": numeric([1.5, 2.5])}
    frame = to_frame(columns, required=required)
    frame.loc[0, "n"], frame.loc[0, "b"], frame.loc[0, "x"] = 9, False, 9.5
    assert [c.to_pylist() for c in columns.values()] == [[1, 2], [True, True], [1.5, 2.5]]


def test_there_and_back():
    frame = to_frame(COLUMNS)
    back = from_frame(frame, {"id": "int64", "amount": "float64", "ok": "bool", "shop": "string"})
    for name, column in back.items():
        assert column.to_pylist() == COLUMNS[name].to_pylist()
        assert column.valid.tolist() == COLUMNS[name].valid.tolist()
        if isinstance(column, NumericColumn):
            assert np.isfinite(column.values).all()


@pytest.mark.parametrize(
    ("series", "kind", "wanted"),
    [
        (pd.Series([1.0, np.nan, -3.0]), "int64", [1, None, -3]),
        (pd.Series([1, None, True], dtype=object), "int64", [1, None, 1]),
        (pd.Series([1, None, 2.5], dtype=object), "float64", [1.0, None, 2.5]),
        (pd.Series([Decimal("1.5"), np.float32(2.0)], dtype=object), "float64", [1.5, 2.0]),
        (pd.Series([None, None], dtype=object), "float64", [None, None]),
        (pd.Series([True, False]), "float64", [1.0, 0.0]),
        (pd.Series([1, 0, None], dtype="Int8"), "bool", [True, False, None]),
        (pd.Series([1.5, np.nan], dtype="Float32"), "float64", [1.5, None]),
        (pd.Series([2**63 - 1, 3], dtype=np.uint64), "int64", [2**63 - 1, 3]),
        (pd.Series([1, 255], dtype=np.uint8), "int64", [1, 255]),
        (pd.to_datetime(pd.Series(["1970-01-01T00:00:01Z", None])), "int64", [1_000, None]),
        (pd.to_datetime(pd.Series(["1970-01-01 00:00:01"])), "float64", [1_000.0]),
        (pd.Series(["a", None, np.nan], dtype=object), "string", ["a", None, None]),
        (pd.Series(["a", "b"], dtype="category"), "string", ["a", "b"]),
    ],
)
def test_what_a_udf_may_return(series, kind, wanted):
    assert from_frame(pd.DataFrame({"x": series}), {"x": kind})["x"].to_pylist() == wanted


@pytest.mark.parametrize(
    ("series", "kind"),
    [
        (pd.Series([1.5]), "int64"),
        (pd.Series([1e300]), "int64"),
        (pd.Series([np.inf]), "int64"),
        (pd.Series([2**63], dtype=np.uint64), "int64"),
        (pd.Series([2**70], dtype=object), "int64"),
        (pd.Series([2]), "bool"),
        (pd.Series(["5"]), "int64"),
        (pd.Series(["5"], dtype="string"), "float64"),
        (pd.Series([[1]]), "float64"),
        (pd.Series([5]), "string"),
        (pd.to_timedelta(pd.Series(["1s"])), "int64"),
    ],
)
def test_what_a_udf_may_not_return(series, kind):
    with pytest.raises(ValueError, match="'x'"):
        from_frame(pd.DataFrame({"x": series}), {"x": kind})


def test_a_missing_column_is_named():
    with pytest.raises(ValueError, match="no column 'y'; it has x"):
        from_frame(pd.DataFrame({"x": [1]}), {"y": "int64"})


def test_rows_that_are_left():
    frame = to_frame(COLUMNS)
    assert kept_rows(frame, 3).tolist() == [0, 1, 2]
    assert kept_rows(frame[frame.amount.notna()], 3).tolist() == [0, 2]
    assert kept_rows(frame.iloc[::-1], 3).tolist() == [2, 1, 0]
    assert kept_rows(frame.iloc[:0], 3).tolist() == []


@pytest.mark.parametrize(
    "result",
    [
        None,
        pd.Series([1]),
        pd.DataFrame({"x": [1]}, index=[3]),
        pd.DataFrame({"x": [1]}, index=[-1]),
        pd.DataFrame({"x": [1, 2]}, index=[0, 0]),
        pd.DataFrame({"x": [1]}, index=["a"]),
        pd.DataFrame({"x": [1]}, index=[0.5]),
    ],
)
def test_rows_that_are_none_of_those_given(result):
    with pytest.raises(ValueError, match="udf"):
        kept_rows(result, 3)
