"""Columns as the text of records: values of JSON objects, and the keys that clients spread by.

A record is made by filling one format string (`bytes % tuple`) for every row: the fastest that
Python has, and nothing is built that is thrown away.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np
import orjson

from streamsvc.columns import BytesColumn, Column
from streamsvc.entity_keys import key_text

__all__ = ["constant", "entity_texts", "escaped", "values"]

_NUMPY = orjson.OPT_SERIALIZE_NUMPY
_json = msgspec.json.Encoder()


def escaped(text: str) -> bytes:
    """Text as it stands in a format string."""
    return text.replace("%", "%%").encode()


def constant(text: str) -> bytes:
    """A JSON string that stands in a format string."""
    return escaped(_json.encode(text).decode())


def entity_texts(entity: Mapping[str, Column]) -> list[bytes]:
    """Record keys: the entity's join keys in sorted order as text, joined by `|`; null is empty."""
    columns = [_texts(key_text(entity[name])) for name in sorted(entity)]
    if len(columns) == 1:
        return columns[0]
    return [b"|".join(parts) for parts in zip(*columns, strict=True)]


def values(column: Column) -> list[bytes]:
    """Every value as JSON: floats with the fewest digits that give the same number again.

    Null, and what JSON has no number for, is `null`. Bytes that are no UTF-8 become U+FFFD.
    """
    if isinstance(column, BytesColumn):
        raw = column.to_bytes_list()
        return [
            b"null" if text is None else _json.encode(text.decode(errors="replace")) for text in raw
        ]
    if not len(column.values):
        return []
    # One call for all, which writes what JSON has no number for as null; no text has a comma.
    found = orjson.dumps(np.ascontiguousarray(column.values), option=_NUMPY)[1:-1].split(b",")
    if not column.valid.all():
        for row in np.flatnonzero(~column.valid).tolist():
            found[row] = b"null"
    return found


def _texts(column: BytesColumn) -> list[bytes]:
    return [b"" if text is None else text for text in column.to_bytes_list()]
