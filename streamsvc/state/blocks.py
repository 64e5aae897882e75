"""Blocks: named arrays and a small header as one Kafka record value.

Layout: u32 little-endian length of a msgpack header, the header, padding to 8 bytes, then each
array's bytes, each padded to 8. The header is `[kind, meta, [[name, dtype, shape], …]]`. Arrays
come back as read-only views of the record: nothing is copied.

>>> value = pack_block("tiles", {"n": 2}, {"start": np.array([1, 2])})
>>> block = unpack_block(value)
>>> block.kind, block.meta, block.arrays["start"].tolist()
('tiles', {'n': 2}, [1, 2])
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import BytesColumn, Column, NumericColumn

__all__ = ["Block", "columns_from_arrays", "columns_to_arrays", "pack_block", "unpack_block"]

_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder()
_ZEROS = bytes(8)


@dataclass(frozen=True, slots=True)
class Block:
    """One decoded record value."""

    kind: str
    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def pack_block(kind: str, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """One record value. Arrays must be of fixed-width dtype; bool, integer or float."""
    described = []
    body: list[bytes] = []
    for name, array in arrays.items():
        described.append([name, array.dtype.str, list(array.shape)])
        raw = np.ascontiguousarray(array).tobytes()
        body += [raw, _ZEROS[: -len(raw) % 8]]
    header = _ENCODER.encode([kind, dict(meta), described])
    front = struct.pack("<I", len(header)) + header
    return b"".join([front, _ZEROS[: -len(front) % 8], *body])


def unpack_block(value: bytes | memoryview) -> Block:
    """The block in a record value. Raises ValueError when the bytes are not a block."""
    view = memoryview(value)
    (length,) = struct.unpack_from("<I", view, 0)
    if 4 + length > len(view):
        raise ValueError(f"block header of {length} bytes in a record of {len(view)}")
    kind, meta, described = _DECODER.decode(view[4 : 4 + length])
    position = 4 + length
    position += -position % 8
    arrays: dict[str, NDArray[Any]] = {}
    for name, dtype, shape in described:
        count = math.prod(shape)
        array = np.frombuffer(view, np.dtype(dtype), count, position).reshape(shape)
        arrays[name] = array
        position += array.nbytes + -array.nbytes % 8
    return Block(kind, meta, arrays)


def columns_to_arrays(columns: Mapping[str, Column], prefix: str) -> dict[str, NDArray[Any]]:
    """Columns as arrays of a block: `<prefix><name>/…` for the parts of each.

    Byte columns must be contiguous (row i ends where row i + 1 starts); lengths are stored.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, column in columns.items():
        if not column.valid.all():
            arrays[f"{prefix}{name}/valid"] = column.valid
        if isinstance(column, NumericColumn):
            arrays[f"{prefix}{name}/values"] = column.values
        else:
            low, high = (int(column.start[0]), int(column.end[-1])) if len(column) else (0, 0)
            arrays[f"{prefix}{name}/data"] = column.data[low:high]
            arrays[f"{prefix}{name}/length"] = (column.end - column.start).astype(np.uint32)
    return arrays


def columns_from_arrays(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, Column]:
    """The inverse of `columns_to_arrays`."""
    columns: dict[str, Column] = {}
    for key, array in arrays.items():
        if not key.startswith(prefix):
            continue
        name, part = key[len(prefix) :].rsplit("/", 1)
        if part == "values":
            columns[name] = NumericColumn(array, _valid(arrays, prefix + name, len(array)))
        elif part == "length":
            end = np.cumsum(array, dtype=np.int64)
            valid = _valid(arrays, prefix + name, len(array))
            start = end - array
            columns[name] = BytesColumn(arrays[f"{prefix}{name}/data"], start, end, valid)
    return columns


def _valid(arrays: Mapping[str, NDArray[Any]], name: str, n: int) -> NDArray[np.bool_]:
    stored = arrays.get(f"{name}/valid")
    return np.ones(n, np.bool_) if stored is None else stored
