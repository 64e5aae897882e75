"""Entity keys: the bytes that name an entity in state, shuffle and store, and Kafka's murmur2.

The parts of a key stand in the order of the sorted join key names, each with a tag byte:

    int64     01  8 bytes little endian          (Feast Int32, Int64, Bool as 0/1, UnixTimestamp
                                                  as seconds since the epoch)
    string    02  u32 little-endian length, then the UTF-8 bytes      (Feast String, Bytes, Uuid)
    float64   03  8 bytes IEEE 754 little endian (Feast Float32, Float64; -0.0 is 0.0, NaN is null)

Tags and lengths make the encoding free of collisions: ("a", "bc") and ("ab", "c") differ, and so do
1 and "1".

>>> from streamsvc.columns import numeric, strings
>>> keys = encode_entity_keys([numeric([7]), strings(["ab"])])
>>> keys.row(0).hex(" ")
'01 07 00 00 00 00 00 00 00 02 02 00 00 00 61 62'
>>> decode_entity_key(keys.row(0))
(7, 'ab')
>>> [column.to_pylist() for column in decode_entity_keys(keys, ["int64", "string"])]
[[7], ['ab']]
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numba import njit

from streamsvc.columns import I64, U8, Bools, BytesColumn, Column, NumericColumn

__all__ = ["decode_entity_key", "decode_entity_keys", "encode_entity_keys", "key_text", "murmur2"]

_INT = 1
_STRING = 2
_FLOAT = 3
_NUMBER_BYTES = 9
_STRING_HEADER_BYTES = 5


def encode_entity_keys(columns: Sequence[Column]) -> BytesColumn:
    """The key bytes of every row; `columns` are the join keys' values in sorted-name order.

    A row is invalid, and empty, if any of its parts is null. Raises ValueError without columns.
    """
    if not columns:
        raise ValueError("an entity key needs at least one column")
    parts = [_part(column) for column in columns]
    valid = np.logical_and.reduce([part.valid for part in parts])
    lengths = np.zeros(len(valid), np.int64)
    for part in parts:
        if isinstance(part, BytesColumn):
            lengths += part.end - part.start + _STRING_HEADER_BYTES
        else:
            lengths += _NUMBER_BYTES
    lengths[~valid] = 0
    end = np.cumsum(lengths)
    start = end - lengths
    out = np.empty(int(end[-1]) if len(end) else 0, np.uint8)
    cursor = start.copy()
    for part in parts:
        if isinstance(part, BytesColumn):
            _put_strings(out, cursor, valid, part.data, part.start, part.end)
        else:
            tag = _FLOAT if part.values.dtype == np.float64 else _INT
            _put_numbers(out, cursor, valid, part.values.view(np.int64), tag)
    return BytesColumn(out, start, end, valid)


def decode_entity_key(raw: bytes) -> tuple[int | str | float, ...]:
    """The parts of one key, in sorted-name order. For messages and records, not for the hot path.

    Bytes that are not UTF-8 come back with surrogate escapes. Raises ValueError for bytes that are
    not an entity key.
    """
    parts: list[int | str | float] = []
    p = 0
    while p < len(raw):
        tag = raw[p]
        p += 1
        try:
            if tag == _STRING:
                (length,) = struct.unpack_from("<I", raw, p)
                p += 4
                if p + length > len(raw):
                    raise ValueError(f"entity key {raw.hex()} ends inside a string")
                parts.append(raw[p : p + length].decode("utf-8", "surrogateescape"))
                p += length
            elif tag in (_INT, _FLOAT):
                parts.append(struct.unpack_from("<q" if tag == _INT else "<d", raw, p)[0])
                p += 8
            else:
                raise ValueError(f"entity key {raw.hex()} has unknown tag {tag} at byte {p - 1}")
        except struct.error as error:
            raise ValueError(f"entity key {raw.hex()} ends inside a number") from error
    return tuple(parts)


def decode_entity_keys(
    keys: BytesColumn, types: Sequence[Literal["int64", "string"]]
) -> list[Column]:
    """The parts of many keys, a column each, in sorted-name order; all keys have these types, and
    none is null."""
    columns: list[Column] = []
    at = keys.start + 1  # behind the tag
    for kind in types:
        if kind == "int64":
            words = keys.data[at[:, None] + np.arange(8)].view("<i8")[:, 0]
            columns.append(NumericColumn(words, keys.valid))
            at = at + _NUMBER_BYTES
        else:
            start = at + 4
            end = start + keys.data[at[:, None] + np.arange(4)].view("<u4")[:, 0]
            columns.append(BytesColumn(keys.data, start, end, keys.valid))
            at = end + 1
    return columns


def murmur2(column: BytesColumn) -> I64:
    """Kafka's murmur2 of every row's bytes, made positive; shape (n,). Partition = that % n.

    It equals `Utils.toPositive(Utils.murmur2(bytes))` of the Java client. Null rows hash whatever
    their slice holds.
    """
    return _murmur2(column.data, column.start, column.end)


def key_text(column: Column) -> BytesColumn:
    """A column as the text that a producer would use as a Kafka record key.

    Integers become decimal ASCII, bools `0` and `1`; strings stay as they are. Raises TypeError for
    floats, which have no single text form.
    """
    if isinstance(column, BytesColumn):
        return column
    if column.values.dtype == np.float64:
        raise TypeError("a float64 column has no agreed text form, so it cannot be a record key")
    values = column.values.astype(np.int64, copy=False)
    data = np.empty(20 * len(values), np.uint8)
    start = np.empty(len(values), np.int64)
    _put_decimals(data, start, values)
    return BytesColumn(data, start, np.arange(20, data.size + 1, 20, dtype=np.int64), column.valid)


def _part(column: Column) -> Column:
    """The column with values in one of the three encoded types, its NaN turned to null."""
    if isinstance(column, BytesColumn):
        return column
    values = np.ascontiguousarray(column.values)
    if values.dtype == np.float64:
        nan = np.isnan(values)
        return NumericColumn(np.where(nan, 0.0, values) + 0.0, column.valid & ~nan)
    return NumericColumn(values.astype(np.int64, copy=False), column.valid)


@njit(cache=True, nogil=True)
def _put_numbers(out: U8, cursor: I64, valid: Bools, words: I64, tag: int) -> None:
    for i in range(len(words)):
        if not valid[i]:
            continue
        p = cursor[i]
        out[p] = tag
        word = words[i]
        for b in range(8):
            out[p + 1 + b] = (word >> (8 * b)) & 0xFF
        cursor[i] = p + 9


@njit(cache=True, nogil=True)
def _put_strings(out: U8, cursor: I64, valid: Bools, data: U8, start: I64, end: I64) -> None:
    for i in range(len(start)):
        if not valid[i]:
            continue
        p = cursor[i]
        length = end[i] - start[i]
        out[p] = 2
        for b in range(4):
            out[p + 1 + b] = (length >> (8 * b)) & 0xFF
        p += 5
        for j in range(start[i], end[i]):
            out[p] = data[j]
            p += 1
        cursor[i] = p


@njit(cache=True, nogil=True)
def _put_decimals(data: U8, start: I64, values: I64) -> None:
    """Write each number right-aligned into its own 20 bytes; `start` is where its text begins."""
    for i in range(len(values)):
        p = 20 * i + 20
        negative = values[i] < 0
        # As unsigned, because the least int64 has no positive counterpart.
        rest = np.uint64(values[i])
        if negative:
            rest = ~rest + np.uint64(1)
        while True:
            p -= 1
            data[p] = np.uint8(48) + np.uint8(rest % np.uint64(10))
            rest //= np.uint64(10)
            if rest == 0:
                break
        if negative:
            p -= 1
            data[p] = 45
        start[i] = p


@njit(cache=True, nogil=True)
def _murmur2(data: U8, start: I64, end: I64) -> I64:
    # 64-bit words masked to 32: numba widens 32-bit products, and Java's wrap around.
    mask = np.uint64(0xFFFFFFFF)
    m = np.uint64(0x5BD1E995)
    out = np.empty(len(start), np.int64)
    for i in range(len(start)):
        p = start[i]
        length = end[i] - p
        h = np.uint64(0x9747B28C) ^ (np.uint64(length) & mask)
        for _ in range(length >> 2):
            k = (
                np.uint64(data[p])
                | (np.uint64(data[p + 1]) << np.uint64(8))
                | (np.uint64(data[p + 2]) << np.uint64(16))
                | (np.uint64(data[p + 3]) << np.uint64(24))
            )
            k = (k * m) & mask
            k ^= k >> np.uint64(24)
            k = (k * m) & mask
            h = ((h * m) & mask) ^ k
            p += 4
        left = length & 3
        if left == 3:
            h ^= np.uint64(data[p + 2]) << np.uint64(16)
        if left >= 2:
            h ^= np.uint64(data[p + 1]) << np.uint64(8)
        if left >= 1:
            h ^= np.uint64(data[p])
            h = (h * m) & mask
        h ^= h >> np.uint64(13)
        h = (h * m) & mask
        h ^= h >> np.uint64(15)
        out[i] = np.int64(h & np.uint64(0x7FFFFFFF))
    return out
