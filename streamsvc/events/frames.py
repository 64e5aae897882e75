"""Columns → the DataFrame that a pandas udf is handed, and its result → columns.

A dtype follows from the column's type alone, never from the nulls that a chunk happens to hold:
otherwise `df.n.astype(str)` would say "5" on one chunk and "5.0" on the next, and 64-bit ids would
lose digits wherever a null stands beside them.

    int64    Int64, null is <NA>;   int64 where the schema says that it is never null
    bool     boolean, null is <NA>; bool where the schema says that it is never null
    float64  float64, null is NaN
    string   pandas' string dtype, null is NaN
    times    datetime64[ms, UTC], for the timestamp field, however the event wrote it

The index is 0 … n-1. A udf returns some of the rows, each at most once, under the index it came
with; what that index is tells which rows are left.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from numbers import Number
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, Columns, NumericColumn, strings
from streamsvc.definitions.plan import FieldType

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["from_frame", "kept_rows", "to_frame"]

_INT64_MAX: Final = 2**63 - 1


def to_frame(
    columns: Columns,
    names: Iterable[str] | None = None,
    *,
    required: Collection[str] = (),
    times: Mapping[str, I64] | None = None,
) -> pd.DataFrame:
    """The columns called `names` (all of them by default), in that order.

    `required` names the columns that cannot be null; `times` holds event times in milliseconds by
    the name of the column that they are shown as.
    """
    import pandas as pd

    shown = times or {}
    found: dict[str, Any] = {}
    for name in columns if names is None else names:
        if name in shown:
            stamps = shown[name].astype("datetime64[ms]")
            found[name] = pd.array(stamps, dtype=pd.DatetimeTZDtype("ms", "UTC"))
        else:
            found[name] = _series(columns[name], name in required)
    n = len(next(iter(columns.values()))) if columns else 0
    # Nothing in `found` is anybody else's; gathering it into blocks would take three times as long.
    return pd.DataFrame(found, index=pd.RangeIndex(n), copy=False)


def kept_rows(frame: pd.DataFrame, n: int) -> I64:
    """Which of the n rows that a udf was handed its result still has, in the result's order.

    Raises ValueError unless the result is some of those rows, each at most once.
    """
    import pandas as pd

    if not isinstance(frame, pd.DataFrame):
        raise ValueError(f"a udf returns a DataFrame, not {type(frame).__name__}")
    labels = frame.index.to_numpy()
    if len(labels) and labels.dtype.kind not in "iu":
        raise ValueError("a udf must keep the index of the rows that it was given")
    rows: I64 = labels.astype(np.int64)
    if len(rows) and (rows.min() < 0 or rows.max() >= n or not frame.index.is_unique):
        raise ValueError("a udf returns each row at most once, under the index that it came with")
    return rows


def from_frame(frame: pd.DataFrame, types: Mapping[str, FieldType]) -> dict[str, Column]:
    """The columns of `types`, in the frame's row order; NaN, None, NaT and <NA> are null.

    Numbers take bools as 0 and 1 and datetimes as milliseconds since 1970. Raises ValueError that
    names a column that is missing or holds something else.
    """
    found: dict[str, Column] = {}
    for name, kind in types.items():
        if name not in frame:
            has = ", ".join(map(str, frame.columns)) or "none"
            raise ValueError(f"the udf's result has no column {name!r}; it has {has}")
        series = frame[name]
        valid = ~np.asarray(series.array.isna())  # Series.notna takes fifteen times as long
        found[name] = _texts(series, valid) if kind == "string" else _numbers(series, valid, kind)
    return found


def _series(column: Column, required: bool) -> Any:
    import pandas as pd

    if isinstance(column, BytesColumn):
        texts = [np.nan if text is None else text for text in column.to_pylist()]
        return pd.array(texts, dtype=pd.StringDtype("python", na_value=np.nan))
    if column.values.dtype == np.float64:
        return np.where(column.valid, column.values, np.nan)
    # Copies: a udf may write into its frame, and the columns may be shared.
    if required:
        return column.values.copy()
    if column.values.dtype == np.bool_:
        return pd.arrays.BooleanArray(column.values.astype(np.bool_), ~column.valid)
    return pd.arrays.IntegerArray(column.values.astype(np.int64), ~column.valid)


def _texts(series: pd.Series[Any], valid: Any) -> BytesColumn:
    texts = [text if ok else None for text, ok in zip(series.tolist(), valid, strict=True)]
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise ValueError(f"column {series.name!r} of the udf holds {text!r}, not a string")
    return strings(texts)


def _numbers(series: pd.Series[Any], valid: Any, kind: FieldType) -> NumericColumn:
    values = _plain_numbers(series)
    if kind == "float64":
        return NumericColumn(np.where(valid, values.astype(np.float64), 0.0), valid)
    present = values[valid]
    good = present == np.floor(present) if present.dtype == np.float64 else np.ones(1, np.bool_)
    if kind == "bool":
        good = good & (present >= 0) & (present <= 1)
    elif present.dtype == np.float64:
        good = good & (np.abs(present) < 2.0**63)
    if not good.all():
        raise ValueError(f"column {series.name!r} of the udf holds values that are not {kind}")
    filled: Any = np.zeros(len(values), np.bool_ if kind == "bool" else np.int64)
    filled[valid] = present.astype(filled.dtype)
    return NumericColumn(filled, valid)


def _plain_numbers(series: pd.Series[Any]) -> Any:
    """The numbers of a series as int64 or float64; anything where they are null."""
    from pandas.api import types

    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "bif":
        return series.to_numpy(np.float64 if series.dtype.kind == "f" else np.int64)
    if types.is_datetime64_any_dtype(series.dtype):
        zoneless = series.dt.tz_convert(None) if series.dt.tz is not None else series
        return zoneless.to_numpy().astype("datetime64[ms]").astype(np.int64)
    if types.is_bool_dtype(series.dtype) or types.is_signed_integer_dtype(series.dtype):
        return series.to_numpy(np.int64, na_value=0)
    if types.is_unsigned_integer_dtype(series.dtype):
        unsigned = series.to_numpy(np.uint64, na_value=0)
        return unsigned.astype(np.int64 if (unsigned <= _INT64_MAX).all() else np.float64)
    if types.is_float_dtype(series.dtype):
        return series.to_numpy(np.float64, na_value=0.0)
    if series.dtype == object:
        values = [0 if missing else v for v, missing in zip(series, series.isna(), strict=True)]
        if all(isinstance(v, Number | np.bool_) for v in values):
            whole = all(isinstance(v, int | np.integer | np.bool_) for v in values)
            fits = whole and all(-_INT64_MAX <= v <= _INT64_MAX for v in values)
            return np.array(values, np.int64 if fits else np.float64)
    raise ValueError(f"column {series.name!r} of the udf is {series.dtype}, not numbers")
