"""Does a udf treat each row on its own? Tried on a made-up batch.

Workers run a udf on whatever a chunk holds, training runs it on whole files: a udf that looks at
other rows gives each of them something else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from streamsvc.columns import Column, NumericColumn, strings
from streamsvc.definitions.plan import EventField, EventSchema, FieldType
from streamsvc.events.frames import to_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["try_udf"]

_ROWS = 24
_FIRST_MS = 1_700_000_000_000
_TEXTS = ("", "0", "1", "12", "A", "AB", "NL", "US", "EWR", "2024-01-01")


def try_udf(
    what: str, udf: Callable[[pd.DataFrame], Any], schema: EventSchema
) -> tuple[dict[str, FieldType], list[str]]:
    """The columns that the udf makes with their types, and every mistake in it."""
    import pandas as pd

    columns = {field.name: _sample(field, i) for i, field in enumerate(schema.fields)}
    times = _FIRST_MS + np.arange(_ROWS, dtype=np.int64) * 7_654_321
    batch = to_frame(
        columns,
        required=[field.name for field in schema.fields if not field.nullable],
        times={schema.timestamp_field: times},
    )
    single: list[Any] = []
    errors: list[str] = []
    good: list[int] = []
    for row in range(_ROWS):
        try:
            single.append(udf(batch.iloc[[row]].copy()))
            good.append(row)
        except Exception as error:  # noqa: BLE001  the user's own code: told, not hidden
            errors.append(f"{type(error).__name__}: {error}")
    if not good:
        return {}, [f"{what}: its udf fails on every row of a sample, as in {errors[0]}."]
    try:
        whole = udf(batch.iloc[good].copy())
    except Exception as error:  # noqa: BLE001
        return {}, [
            f"{what}: its udf takes single rows but fails on several ({type(error).__name__}: "
            f"{error}); use operations on columns, which work on any number of rows."
        ]
    if not isinstance(whole, pd.DataFrame):
        return {}, [f"{what}: its udf returns {type(whole).__name__}; return a DataFrame."]
    own_index = all(set(frame.index) <= {row} for row, frame in zip(good, single, strict=True))
    if not own_index or not whole.index.is_unique or not set(whole.index) <= set(good):
        return {}, [
            f"{what}: its udf does not keep the index; return some of the rows it was given, each "
            f"at most once and under its own index."
        ]
    wrong = _differences(what, whole.sort_index(), pd.concat(single).sort_index())
    kinds = {str(name): _type_of(whole[name]) for name in whole.columns}
    return {name: kind for name, kind in kinds.items() if kind is not None}, wrong


def _differences(what: str, whole: pd.DataFrame, single: pd.DataFrame) -> list[str]:
    remedy = "a udf must compute each row from that row alone."
    if not whole.index.equals(single.index):
        return [f"{what}: its udf keeps other rows of a batch than of single rows; {remedy}"]
    differing = sorted(
        str(name) for name in whole.columns if not _same(whole[name], single.get(name))
    )
    if not differing:
        return []
    return [f"{what}: column {', '.join(differing)} of its udf depends on other rows; {remedy}"]


def _type_of(series: pd.Series[Any]) -> FieldType | None:
    """None for what is neither numbers nor text."""
    from pandas.api import types

    if types.is_bool_dtype(series.dtype):
        return "bool"
    if types.is_integer_dtype(series.dtype) or types.is_datetime64_any_dtype(series.dtype):
        return "int64"
    if types.is_float_dtype(series.dtype):
        return "float64"
    return "string" if all(isinstance(value, str) for value in series.dropna()) else None


def _same(left: pd.Series[Any], right: Any) -> bool:
    if right is None:
        return False
    null = left.isna().to_numpy()
    if not np.array_equal(null, right.isna().to_numpy()):
        return False
    a, b = left[~null], right[~null]
    try:
        numbers = a.to_numpy(np.float64), b.to_numpy(np.float64)
    except (TypeError, ValueError):
        return a.tolist() == b.tolist()
    return bool(np.allclose(*numbers, rtol=1e-12, atol=0.0, equal_nan=True))


def _sample(field: EventField, salt: int) -> Column:
    """A made-up column: every kind of value, and a null here and there where the schema has them.

    Whole in the first rows, so that a udf that cannot take nulls still shows what it does.
    """
    row = np.arange(_ROWS, dtype=np.int64)
    valid = np.ones(_ROWS, np.bool_) if not field.nullable else (row < 8) | ((row + salt) % 5 != 0)
    if field.type == "string":
        texts = [_TEXTS[(r * 3 + salt) % len(_TEXTS)] for r in row.tolist()]
        return strings([t if ok else None for t, ok in zip(texts, valid.tolist(), strict=True)])
    if field.type == "bool":
        return NumericColumn((row + salt) % 3 == 0, valid)
    numbers = (row * 37 + salt * 11) % 101 - 13
    if field.type == "int64":
        return NumericColumn(numbers, valid)
    return NumericColumn((numbers * 1.37).astype(np.float64), valid)
