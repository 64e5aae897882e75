"""Run a view's pandas udf on columns.

What a udf is handed must not depend on how the records were cut into chunks, so a column's dtype
follows from its declared type alone, never from whether this chunk holds a null:

    int64    NOT NULL int64, else Int64          string   pandas string, null is NaN
    bool     NOT NULL bool,  else boolean        float64  float64, null is NaN

and the timestamp field is datetime64[ms, UTC] however it was written in the event.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamsvc.columns import I64, BytesColumn, Column, Columns, NumericColumn, strings
from streamsvc.definitions.plan import EventSchema, FieldType, View

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Transformed", "column_of", "event_frame", "field_type", "transform"]


@dataclass(frozen=True, slots=True)
class Transformed:
    """What is left of a chunk after a view's udf."""

    rows: I64
    """Positions of the chunk's rows that were kept, ascending; shape (m,)."""
    columns: dict[str, Column]
    """Join keys and aggregated columns, m rows each."""


def transform(view: View, columns: Columns, event_time: I64) -> Transformed:
    """The join keys and aggregated columns of a chunk.

    `columns` are all n rows of the source's fields, `event_time` their milliseconds, shape (n,).
    A join key that the udf leaves out is taken from the event. Whatever the udf raises is raised,
    and ValueError if its result is not some of the rows it was given.
    """
    wanted = {**view.column_types, **{key.name: key.type for key in view.join_keys}}
    if view.udf is None:
        rows = np.arange(len(event_time), dtype=np.int64)
        return Transformed(rows, {name: columns[name] for name in wanted})
    result = view.udf(event_frame(view.source.schema, columns, event_time))
    rows = _kept_rows(result, len(event_time))
    order = np.argsort(rows, kind="stable")
    rows = rows[order]
    found: dict[str, Column] = {}
    for name, kind in wanted.items():
        if name in result:
            found[name] = column_of(result[name], kind).take(order)
        else:
            found[name] = columns[name].take(rows)
    return Transformed(rows, found)


def event_frame(schema: EventSchema, columns: Columns, event_time: I64) -> pd.DataFrame:
    """The frame that a udf is handed: one row per record, index 0 … n-1."""
    import pandas as pd

    found: dict[str, Any] = {}
    for field in schema.fields:
        if field.name == schema.timestamp_field:
            times = event_time.astype("datetime64[ms]")
            found[field.name] = pd.Series(times).dt.tz_localize("UTC")
        else:
            found[field.name] = _series(columns[field.name], field.type, field.nullable)
    return pd.DataFrame(found, index=pd.RangeIndex(len(event_time)))


def field_type(series: pd.Series[Any]) -> FieldType | None:
    """The type that a udf's result has, or None if it is none that can be aggregated."""
    from pandas.api import types

    if types.is_bool_dtype(series.dtype):
        return "bool"
    if types.is_integer_dtype(series.dtype):
        return "int64"
    if types.is_float_dtype(series.dtype):
        return "float64"
    if types.is_string_dtype(series.dtype) or series.dtype == object:
        return "string"
    return None


def column_of(series: pd.Series[Any], kind: FieldType) -> Column:
    """A series as a column of that type. Raises ValueError for a value that is not of it."""
    valid = series.notna().to_numpy(np.bool_)
    if kind == "string":
        texts = zip(series.tolist(), valid.tolist(), strict=True)
        return strings([str(v) if ok else None for v, ok in texts])
    if kind == "float64":
        return NumericColumn(np.where(valid, series.to_numpy(np.float64, na_value=0.0), 0.0), valid)
    dtype = np.int64 if kind == "int64" else np.bool_
    filled = series.where(valid, 0).to_numpy()
    values: Any = filled.astype(dtype)
    if not np.array_equal(values.astype(np.float64), filled.astype(np.float64)):
        raise ValueError(f"column {series.name!r} holds values that are not {kind}")
    return NumericColumn(values, valid)


def _series(column: Column, kind: FieldType, nullable: bool) -> Any:
    import pandas as pd

    if isinstance(column, BytesColumn):
        text = pd.StringDtype("python", na_value=np.nan)
        values = [np.nan if v is None else v for v in column.to_pylist()]
        return pd.array(values, dtype=text)
    if kind == "float64":
        return np.where(column.valid, column.values, np.nan)
    if not nullable:
        return column.values
    masked: Mapping[FieldType, Any] = {
        "int64": pd.arrays.IntegerArray,
        "bool": pd.arrays.BooleanArray,
    }
    return masked[kind](column.values.copy(), ~column.valid)


def _kept_rows(result: Any, n: int) -> I64:
    import pandas as pd

    if not isinstance(result, pd.DataFrame):
        raise ValueError(f"the udf returned {type(result).__name__}, not a DataFrame")
    try:
        rows = result.index.to_numpy().astype(np.int64, casting="safe")
    except TypeError:
        raise ValueError("the udf must keep the index of the rows it was given") from None
    inside = (rows >= 0) & (rows < n)
    if not inside.all() or len(np.unique(rows)) != len(rows):
        raise ValueError("the udf must return each row at most once, under the index it came with")
    return rows
