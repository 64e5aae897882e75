"""One header of many records, found in the raw bytes without making objects."""

from __future__ import annotations

import numpy as np
from numba import njit

from streamsvc.columns import I64, U8, BytesColumn
from streamsvc.transport.chunk import Chunk

__all__ = ["header_column"]


def header_column(chunk: Chunk, name: str) -> BytesColumn:
    """The value of this header in every record; null where a record has no such header.

    The first one counts where a record has several.
    """
    n = len(chunk)
    start = np.zeros(n, np.int64)
    end = np.zeros(n, np.int64)
    rows = chunk.with_headers
    if len(rows):
        wanted = np.frombuffer(name.encode(), np.uint8).copy()
        _find(np.ascontiguousarray(chunk.data), chunk.header_start, rows, wanted, start, end)
    valid = end > 0
    return BytesColumn(chunk.data, np.where(valid, start, 0), np.where(valid, end, 0), valid)


@njit(cache=True, nogil=True)
def _varint(data: U8, p: int) -> tuple[int, int]:
    value = 0
    shift = 0
    while True:
        byte = int(data[p])
        p += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return (value >> 1) ^ -(value & 1), p
        shift += 7


@njit(cache=True, nogil=True)
def _find(data: U8, header_start: I64, rows: I64, wanted: U8, start: I64, end: I64) -> None:
    for r in range(len(rows)):
        i = rows[r]
        count, p = _varint(data, header_start[i])
        for _ in range(count):
            length, p = _varint(data, p)
            same = length == len(wanted)
            if same:
                for b in range(length):
                    if data[p + b] != wanted[b]:
                        same = False
                        break
            p += length
            length, p = _varint(data, p)
            if same:
                if length >= 0:
                    start[i] = p
                    end[i] = p + length
                break
            if length > 0:
                p += length
