from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from streamsvc.columns import NumericColumn, numeric, strings
from streamsvc.definitions.plan import (
    Aggregate,
    EventField,
    EventSchema,
    FieldType,
    JoinKey,
    Source,
    View,
)
from streamsvc.definitions.row_by_row import try_udf
from streamsvc.definitions.udf import event_frame, transform

SCHEMA = EventSchema(
    fields=(
        EventField("card", ("card",), "string"),
        EventField("n", ("n",), "int64"),
        EventField("m", ("m",), "int64", nullable=False),
        EventField("amount", ("amount",), "float64"),
        EventField("ok", ("ok",), "bool"),
        EventField("at", ("at",), "string", nullable=False),
    ),
    timestamp_field="at",
)
BIG = 2**60 + 1
COLUMNS = {
    "card": strings(["a", None, "c"]),
    "n": NumericColumn(np.array([BIG, 0, 3]), np.array([True, False, True])),
    "m": numeric([1, 2, 3]),
    "amount": numeric([1.5, None, 3.5]),
    "ok": numeric([True, None, False]),
    "at": strings(["2024-01-01T00:00:00Z"] * 3),
}
TIMES = np.array([1_000, 2_000, 3_000])


def _view(udf: Any, **types: FieldType) -> View:
    return View(
        name="v",
        source=Source("s", "t", SCHEMA, 0, 0, None, None),
        join_keys=(JoinKey("card", "string"),),
        aggregates=tuple(Aggregate(f"sum_{c}", c, "sum", 60_000, 1_000) for c in types),
        feature_types={},
        udf=udf,
        ttl_ms=None,
        definition_hash="",
        column_types=types,
    )


def test_without_a_udf_the_columns_pass_through() -> None:
    result = transform(_view(None, amount="float64"), COLUMNS, TIMES)
    assert result.rows.tolist() == [0, 1, 2]
    assert result.columns == {"amount": COLUMNS["amount"], "card": COLUMNS["card"]}


def test_dtypes_do_not_depend_on_which_rows_a_chunk_holds() -> None:
    whole = event_frame(SCHEMA, COLUMNS, TIMES)
    full = np.array([0, 2])
    part = event_frame(SCHEMA, {k: c.take(full) for k, c in COLUMNS.items()}, TIMES[full])
    assert whole.dtypes.to_dict() == part.dtypes.to_dict()
    assert whole["n"].tolist()[0] == BIG
    assert whole["at"].tolist()[0] == pd.Timestamp(1, unit="s", tz="UTC")
    assert whole["m"].dtype == np.int64


def test_a_udf_filters_and_computes() -> None:
    def udf(events: pd.DataFrame) -> pd.DataFrame:
        events = events[events["card"].notna()].iloc[::-1].copy()
        events["twice"] = events["amount"] * 2
        events["late"] = events["n"] > 5
        return events[["twice", "late", "n"]]

    view = _view(udf, twice="float64", late="bool", n="int64")
    result = transform(view, COLUMNS, TIMES)
    assert result.rows.tolist() == [0, 2]
    assert result.columns["twice"].to_pylist() == [3.0, 7.0]
    assert result.columns["late"].to_pylist() == [True, False]
    assert result.columns["n"].to_pylist() == [BIG, 3]
    assert result.columns["card"].to_pylist() == ["a", "c"]  # left out by the udf


@pytest.mark.parametrize(
    ("udf", "told"),
    [
        (lambda df: df.reset_index(drop=True).set_index(df.index + 7), "at most once"),
        (lambda df: pd.concat([df, df]), "at most once"),
        (lambda df: df.set_index("card"), "keep the index"),
        (lambda df: df["amount"], "not a DataFrame"),
    ],
)
def test_a_udf_may_only_return_rows_it_was_given(udf: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        transform(_view(udf, amount="float64"), COLUMNS, TIMES)


def test_a_fraction_in_an_integer_column_is_an_error() -> None:
    def udf(events: pd.DataFrame) -> pd.DataFrame:
        return events.assign(m=events["m"] / 2)

    with pytest.raises(ValueError, match="not int64"):
        transform(_view(udf, m="int64"), COLUMNS, TIMES)


def _assigning(**columns: Callable[[pd.DataFrame], Any]) -> Any:
    return lambda df: df.assign(**columns)


def test_a_row_by_row_udf_is_accepted_and_typed() -> None:
    def udf(df: pd.DataFrame) -> pd.DataFrame:
        df = df[df["card"].notna() & (df["amount"] > 0)].copy()
        df["ratio"] = df["amount"] / df["m"].where(df["m"] != 0)
        df["pair"] = df["card"] + "-" + df["card"]
        df["hour"] = df["at"].dt.hour
        return df

    types, mistakes = try_udf("V", udf, SCHEMA)
    assert mistakes == []
    assert types["ratio"] == "float64"
    assert types["pair"] == "string"
    assert types["hour"] == "int64"
    assert types["ok"] == "bool"
    assert "at" not in types


@pytest.mark.parametrize(
    ("udf", "told"),
    [
        (_assigning(x=lambda d: d["amount"].cumsum()), "column x of its udf depends on other rows"),
        (_assigning(x=lambda d: d["amount"] - d["amount"].mean()), "depends on other rows"),
        (_assigning(x=lambda d: d["m"].shift()), "depends on other rows"),
        (lambda d: d.drop_duplicates("card"), "keeps other rows of a batch"),
        (lambda d: d.head(1), "keeps other rows of a batch"),
        (lambda d: d.reset_index(drop=True).iloc[::-1].reset_index(drop=True), "index"),
        (lambda d: d.groupby("card", as_index=False).sum(numeric_only=True), "index"),
        (lambda d: d["m"], "returns Series"),
        (lambda d: d.missing, "fails on every row of a sample"),
        (_assigning(x=lambda d: d["m"].item()), "takes single rows but fails on several"),
    ],
)
def test_a_udf_that_looks_at_other_rows_is_a_mistake(udf: Any, told: str) -> None:
    _, mistakes = try_udf("V", udf, SCHEMA)
    assert len(mistakes) == 1
    assert told in mistakes[0]
