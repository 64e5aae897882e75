"""Columns to a DataFrame for a udf, and back."""

from __future__ import annotations
from collections.abc import Mapping
from typing import TYPE_CHECKING
import numpy as np
from streamsvc.columns import BytesColumn, Column, Columns, NumericColumn, strings
from streamsvc.definitions.plan import FieldType

if TYPE_CHECKING:
    import pandas as pd
__all__ = ["from_frame", "to_frame"]


def to_frame(columns: Columns) -> pd.DataFrame:
    import pandas as pd

    out = {}
    for n, c in columns.items():
        if isinstance(c, BytesColumn):
            out[n] = np.array(c.to_pylist(), dtype=object)
        elif c.valid.all():
            out[n] = c.values
        elif c.values.dtype == np.bool_:
            out[n] = np.array(c.to_pylist(), dtype=object)
        else:
            out[n] = np.where(c.valid, c.values, np.nan)
    return pd.DataFrame(out)


def from_frame(frame: pd.DataFrame, types: Mapping[str, FieldType]) -> dict[str, Column]:
    out: dict[str, Column] = {}
    for n, t in types.items():
        s = frame[n]
        if t == "string":
            out[n] = strings([None if (v is None or v != v) else str(v) for v in s])
        else:
            valid = s.notna().to_numpy()
            dt = {"int64": np.int64, "float64": np.float64, "bool": np.bool_}[t]
            out[n] = NumericColumn(s.where(s.notna(), 0).to_numpy().astype(dt), valid)
    return out
