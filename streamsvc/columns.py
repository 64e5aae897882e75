"""Columns: how a chunk of records looks to every room.

The pure rooms take and return these; nothing here knows Kafka, Redis or Feast.
A null is `valid[i] == False`; what `values[i]` holds there is unspecified but finite.

>>> column = numeric([1.5, None, 3.0])
>>> column.values.tolist()[0], column.valid.tolist()
(1.5, [True, False, True])
>>> strings(["a", None, "bc"]).to_pylist()
['a', None, 'bc']
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "F64",
    "I64",
    "U8",
    "U32",
    "U64",
    "Bools",
    "BytesColumn",
    "Column",
    "Columns",
    "NumericColumn",
    "concat",
    "numeric",
    "strings",
]

I64: TypeAlias = NDArray[np.int64]
F64: TypeAlias = NDArray[np.float64]
U8: TypeAlias = NDArray[np.uint8]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
Bools: TypeAlias = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class NumericColumn:
    """Numbers: `values` is int64, float64 or bool, shape (n,); `valid` is bool, shape (n,)."""

    values: NDArray[np.int64] | NDArray[np.float64] | NDArray[np.bool_]
    valid: Bools

    def __len__(self) -> int:
        return len(self.values)

    def take(self, rows: I64 | Bools | slice) -> NumericColumn:
        """The rows at these positions, or where the mask is true, in order; of a slice, a view."""
        return NumericColumn(self.values[rows], self.valid[rows])

    def to_pylist(self) -> list[int | float | bool | None]:
        """Python values, None for null. For tests and messages, not for the hot path."""
        return [
            v if ok else None
            for v, ok in zip(self.values.tolist(), self.valid.tolist(), strict=True)
        ]


@dataclass(frozen=True, slots=True)
class BytesColumn:
    """UTF-8 strings or raw bytes: row i is `data[start[i]:end[i]]`.

    `data` is uint8 and may be shared with the record batch it was cut from; `start` and `end`
    are int64, shape (n,). Rows may overlap or come in any order.
    """

    data: U8
    start: I64
    end: I64
    valid: Bools

    def __len__(self) -> int:
        return len(self.start)

    def take(self, rows: I64 | Bools | slice) -> BytesColumn:
        """As of numbers; the data is shared."""
        return BytesColumn(self.data, self.start[rows], self.end[rows], self.valid[rows])

    def row(self, i: int) -> bytes:
        """The bytes of one row. For tests and messages, not for the hot path."""
        return self.data[self.start[i] : self.end[i]].tobytes()

    def to_bytes_list(self) -> list[bytes | None]:
        """Every row as bytes, None for null: one copy of the buffer, then slices."""
        raw = self.data.tobytes()
        rows = zip(self.start.tolist(), self.end.tolist(), self.valid.tolist(), strict=True)
        return [raw[s:e] if ok else None for s, e, ok in rows]

    def to_pylist(self) -> list[str | None]:
        """Every row as str, None for null."""
        return [None if b is None else b.decode() for b in self.to_bytes_list()]


Column: TypeAlias = NumericColumn | BytesColumn
Columns: TypeAlias = Mapping[str, Column]


def numeric(values: Sequence[int | float | bool | None] | NDArray[np.generic]) -> NumericColumn:
    """A numeric column of a sequence; None is null. bool, int64 or float64 by content."""
    if isinstance(values, np.ndarray):
        return NumericColumn(values, np.ones(len(values), np.bool_))  # type: ignore[arg-type]
    valid = np.array([v is not None for v in values], np.bool_)
    present = [v for v in values if v is not None]
    dtype: type[np.generic] = np.float64
    if present and all(isinstance(v, bool) for v in present):
        dtype = np.bool_
    elif present and all(isinstance(v, int) for v in present):
        dtype = np.int64
    filled = np.array([0 if v is None else v for v in values], dtype)
    return NumericColumn(filled, valid)


def strings(values: Sequence[str | bytes | None]) -> BytesColumn:
    """A column of strings (as UTF-8) or bytes; None is null."""
    rows = [b"" if v is None else v.encode() if isinstance(v, str) else v for v in values]
    ends = np.cumsum(np.array([len(r) for r in rows], np.int64)) if rows else np.empty(0, np.int64)
    starts = ends - np.array([len(r) for r in rows], np.int64)
    data = np.frombuffer(b"".join(rows), np.uint8)
    return BytesColumn(data, starts, ends, np.array([v is not None for v in values], np.bool_))


_DTYPES = {"int64": np.int64, "float64": np.float64, "bool": np.bool_}


def concat(columns: Sequence[Column], type_: str) -> Column:
    """Columns of one type (`int64`, `float64`, `bool` or `string`) one after the other.

    Raises TypeError when a column is of the other kind (numbers among strings).
    """
    valid = np.concatenate([c.valid for c in columns]) if columns else np.empty(0, np.bool_)
    if type_ != "string":
        values = [c.values for c in columns if isinstance(c, NumericColumn)]
        if len(values) != len(columns):
            raise TypeError(f"a column of strings cannot continue one of {type_}")
        dtype = _DTYPES[type_]
        joined = np.concatenate(values) if values else np.empty(0, dtype)
        return NumericColumn(joined.astype(dtype, copy=False), valid)
    texts = [c for c in columns if isinstance(c, BytesColumn)]
    if len(texts) != len(columns):
        raise TypeError("a column of numbers cannot continue one of strings")
    start, end = [c.start for c in texts], [c.end for c in texts]
    if not texts:
        return BytesColumn(
            np.empty(0, np.uint8), np.empty(0, np.int64), np.empty(0, np.int64), valid
        )
    data = texts[0].data
    if any(c.data is not data for c in texts):  # else they are parts of one column
        shift = np.cumsum([0, *(len(c.data) for c in texts)]).tolist()
        data = np.concatenate([c.data for c in texts])
        start = [each + s for each, s in zip(start, shift, strict=False)]
        end = [each + s for each, s in zip(end, shift, strict=False)]
    return BytesColumn(data, np.concatenate(start), np.concatenate(end), valid)
