from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from streamsvc.definitions.plan import EventField, EventSchema
from streamsvc.definitions.row_by_row import try_udf

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
    assert types["at"] == "int64"


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
