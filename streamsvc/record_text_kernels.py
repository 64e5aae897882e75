"""Kernels that measure and write the text of records, row by row.

Both go through k columns of n rows. `starts` and `ends` say where in `data` a text lies, once
`shift` is added; of whole numbers and bools `starts` is the value. `same` are the constants
around the columns, cut at `cuts`.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsvc.byte_copy import copy_bytes, kernel
from streamsvc.columns import I64, U8

__all__ = ["BOOL", "FLOAT", "INT", "JSON", "TEXT", "BoolTable", "cut", "fill", "measure"]

# What a column is.
TEXT, JSON, INT, BOOL, FLOAT = range(5)

BoolTable: TypeAlias = NDArray[np.bool_]

_WORDS = np.frombuffer(b"nulltruefalse", np.uint8)


@kernel
def cut(data: U8, starts: I64, ends: I64) -> None:
    """Where the items of `[a,b,c]` stand."""
    row, begin = 0, 1
    for p in range(1, len(data)):
        if (data[p] == ord(",") or data[p] == ord("]")) and row < len(starts):
            starts[row], ends[row] = begin, p
            begin = p + 1
            row += 1


@kernel
def _plain(data: U8, start: int, end: int) -> bool:
    """Whether a text is its own JSON, but for the quotes."""
    for p in range(start, end):
        byte = data[p]
        if byte < 0x20 or byte >= 0x80 or byte == ord('"') or byte == ord("\\"):
            return False
    return True


@kernel
def _magnitude(value: int) -> np.uint64:
    return np.uint64(value) if value >= 0 else np.uint64(0) - np.uint64(value)


@kernel
def _digits(value: int) -> int:
    """How long a number is as text."""
    size, left = 1 if value >= 0 else 2, _magnitude(value)
    while left >= np.uint64(10):
        left //= np.uint64(10)
        size += 1
    return size


@kernel
def measure(
    cuts: I64, kinds: I64, data: U8, shift: I64, starts: I64, ends: I64, valid: BoolTable
) -> tuple[I64, bool]:
    """Where the rows begin, the last one where another would; and whether a text is not plain."""
    k, n = valid.shape
    bounds = np.zeros(n + 1, np.int64)
    bounds[1:] = cuts[-1]
    for i in range(k):
        kind = kinds[i]
        for row in range(n):
            if not valid[i, row]:
                bounds[row + 1] += 0 if kind == TEXT else 4
            elif kind == INT:
                bounds[row + 1] += _digits(starts[i, row])
            elif kind == BOOL:
                bounds[row + 1] += 5 - starts[i, row]
            else:
                bounds[row + 1] += ends[i, row] - starts[i, row]
                if kind == JSON:
                    bounds[row + 1] += 2
                    if not _plain(data, starts[i, row] + shift[i], ends[i, row] + shift[i]):
                        return bounds, True
    for row in range(n):
        bounds[row + 1] += bounds[row]
    return bounds, False


@kernel
def _copy(out: U8, p: int, data: U8, start: int, end: int) -> int:
    copy_bytes(out, p, data, start, end - start)
    return p + end - start


@kernel
def _put_number(out: U8, p: int, value: int) -> int:
    left = _magnitude(value)
    end = q = p + _digits(value)
    if value < 0:
        out[p] = ord("-")
        p += 1
    while q > p:
        q -= 1
        out[q] = np.uint8(left % np.uint64(10) + np.uint64(48))
        left //= np.uint64(10)
    return end


@kernel
def fill(
    out: U8,
    bounds: I64,
    same: U8,
    cuts: I64,
    kinds: I64,
    data: U8,
    shift: I64,
    starts: I64,
    ends: I64,
    valid: BoolTable,
) -> None:
    """Write the rows; `bounds` and `out` are of the size that was measured."""
    for row in range(len(bounds) - 1):
        p = _copy(out, bounds[row], same, 0, cuts[1])
        for i in range(len(kinds)):
            kind = kinds[i]
            if not valid[i, row]:
                p = _copy(out, p, _WORDS, 0, 0 if kind == TEXT else 4)
            elif kind == INT:
                p = _put_number(out, p, starts[i, row])
            elif kind == BOOL and starts[i, row]:
                p = _copy(out, p, _WORDS, 4, 8)
            elif kind == BOOL:
                p = _copy(out, p, _WORDS, 8, 13)
            else:
                if kind == JSON:
                    out[p] = ord('"')
                    p += 1
                p = _copy(out, p, data, starts[i, row] + shift[i], ends[i, row] + shift[i])
                if kind == JSON:
                    out[p] = ord('"')
                    p += 1
            p = _copy(out, p, same, cuts[i + 1], cuts[i + 2])
