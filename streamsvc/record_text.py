"""Columns as the text of records: JSON objects, and the keys that clients spread by.

No text becomes an object of its own: one kernel copies constants and columns into one buffer.

>>> from streamsvc.columns import numeric, strings
>>> name, paid = strings(['an', 'o"b']), numeric([1.5, None])
>>> filled(b'{"name":', Json(name), b',"paid":', paid, b"}").to_pylist()
['{"name":"an","paid":1.5}', '{"name":"o\\\\"b","paid":null}']
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from streamsvc.columns import I64, U8, BytesColumn, Column, NumericColumn, strings
from streamsvc.entity_keys import key_text
from streamsvc.record_text_kernels import (
    BOOL,
    FLOAT,
    INT,
    JSON,
    TEXT,
    BoolTable,
    cut,
    fill,
    measure,
)

__all__ = ["Json", "Part", "choices", "constant", "entity_texts", "filled", "members"]

_NUMBERS = {"f": FLOAT, "b": BOOL}
_LONG = 16_384
"""Bytes of a column's data that are worth a look at which of them are needed."""

_json = msgspec.json.Encoder()


class Json(NamedTuple):
    """Texts that become JSON strings, null `null`, and bytes that are no UTF-8 U+FFFD."""

    texts: BytesColumn


Numbers: TypeAlias = NDArray[Any]
Part: TypeAlias = bytes | Column | Json | Numbers


def constant(text: str) -> bytes:
    """A text as JSON."""
    return _json.encode(text)


def filled(*parts: Part) -> BytesColumn:
    """Each row's parts, one behind the other: bytes are the same in every row, columns differ.

    Texts stand as they are, null empty; numbers and bools are JSON, floats with the fewest digits
    that give the same number again, and `null` where JSON has no number. The rows lie behind one
    another in the data. There is at least one column.
    """
    constants: list[bytes] = [b""]
    columns: list[Column | Json | Numbers] = []
    for part in parts:
        if isinstance(part, bytes):
            constants[-1] += part
        else:
            constants.append(b"")
            columns.append(part)
    same = np.frombuffer(b"".join(constants), np.uint8)
    cuts = np.array([0, *accumulate(map(len, constants))])
    table = _tables(columns)
    bounds, odd = measure(cuts, *table)
    if odd:
        return filled(*(_slowly(part) if isinstance(part, Json) else part for part in parts))
    out = np.empty(int(bounds[-1]), np.uint8)
    fill(out, bounds, same, cuts, *table)
    return BytesColumn(out, bounds[:-1], bounds[1:], np.ones(len(bounds) - 1, np.bool_))


def choices(texts: Sequence[bytes], which: I64) -> BytesColumn:
    """Texts by their number; `which` has shape (n,)."""
    return strings(texts).take(which)


def members(columns: Mapping[str, Column]) -> Iterator[Part]:
    """The members of a JSON object, without its braces."""
    for i, (name, column) in enumerate(columns.items()):
        yield (b"," if i else b"") + constant(name) + b":"
        yield Json(column) if isinstance(column, BytesColumn) else column


def entity_texts(entity: Mapping[str, Column]) -> BytesColumn:
    """Record keys: the entity's join keys in sorted order as text, joined by `|`; null is empty."""
    parts: list[Part] = []
    for name in sorted(entity):
        parts += [b"|", key_text(entity[name])]
    return filled(*parts[1:])


class _Tables(NamedTuple):
    """k columns of n rows, as the kernels see them."""

    kinds: I64
    data: U8
    shift: I64
    """Of a column of texts: what is to be added to its positions in `data`. (k,), as `kinds`."""
    starts: I64
    """Where a text begins, or a number; (k, n), as the next two."""
    ends: I64
    valid: BoolTable


def _tables(columns: Sequence[Column | Json | Numbers]) -> _Tables:
    first = columns[0].texts if isinstance(columns[0], Json) else columns[0]
    k, n = len(columns), len(first)
    kinds, buffers, shifts, at = [TEXT] * k, [np.empty(0, np.uint8)], [0] * k, 0
    valid, (starts, ends) = np.ones((k, n), np.bool_), np.empty((2, k, n), np.int64)
    for i, column in enumerate(columns):
        # NumPy would repeat a column of one row for all.
        if len(column.texts if isinstance(column, Json) else column) != n:
            raise ValueError(f"column {i} has not {n} rows, as the first has")
        if isinstance(column, Json | BytesColumn):
            texts = column.texts if isinstance(column, Json) else column
            kinds[i] = JSON if isinstance(column, Json) else TEXT
            valid[i], starts[i], ends[i] = texts.valid, texts.start, texts.end
            buffer, shifts[i] = _window(texts)
        else:
            values: Numbers = column.values if isinstance(column, NumericColumn) else column
            if isinstance(column, NumericColumn):
                valid[i] = column.valid
            kinds[i] = _NUMBERS.get(values.dtype.kind, INT)
            if kinds[i] != FLOAT:
                starts[i] = values
                continue
            buffer = _floats(values, starts[i], ends[i])
        shifts[i] += at
        at += len(buffer)
        buffers.append(buffer)
    return _Tables(np.array(kinds), np.concatenate(buffers), np.array(shifts), starts, ends, valid)


def _window(column: BytesColumn) -> tuple[U8, int]:
    """The part of the data that the texts lie in, which may be a few of a fetch of megabytes; and
    what is to be added to their positions."""
    if len(column.data) < _LONG or not column.valid.any():
        return column.data, 0
    low = int(column.start[column.valid].min())
    return column.data[low : int(column.end[column.valid].max())], -low


def _floats(values: Numbers, starts: I64, ends: I64) -> U8:
    """Floats as JSON, and where each stands."""
    # One call for all, which writes what JSON has no number for as null.
    found = orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY)
    text = np.frombuffer(found, np.uint8)
    cut(text, starts, ends)
    return text


def _slowly(part: Json) -> BytesColumn:
    """Texts of which some are not plain ASCII, one by one."""
    texts = part.texts.to_bytes_list()
    return strings([b"null" if t is None else constant(t.decode(errors="replace")) for t in texts])
