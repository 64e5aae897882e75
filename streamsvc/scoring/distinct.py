"""Distinct byte strings of a column, without making an object per row."""

from __future__ import annotations

import numpy as np
from numba import njit

from streamsvc.columns import I64, U8, Bools, BytesColumn

__all__ = ["distinct"]


def distinct(column: BytesColumn) -> tuple[BytesColumn, I64]:
    """The distinct non-null values in order of first appearance, and where each row's value is.

    The second result has shape (n,): the row's position among the distinct values, -1 for null.

    >>> from streamsvc.columns import strings
    >>> values, index = distinct(strings(["b", "a", None, "b"]))
    >>> values.to_pylist(), index.tolist()
    (['b', 'a'], [0, 1, -1, 0])
    """
    slots = 1 << max(4, (2 * len(column)).bit_length())
    table = np.full(slots, -1, np.int64)
    first, index = _distinct(column.data, column.start, column.end, column.valid, table)
    return column.take(first), index


@njit(cache=True, nogil=True)
def _distinct(data: U8, start: I64, end: I64, valid: Bools, table: I64) -> tuple[I64, I64]:
    n = len(start)
    mask = len(table) - 1
    index = np.empty(n, np.int64)
    first = np.empty(n, np.int64)
    found = 0
    for i in range(n):
        if not valid[i]:
            index[i] = -1
            continue
        length = end[i] - start[i]
        h = np.uint64(0xCBF29CE484222325)
        for p in range(start[i], end[i]):
            h = (h ^ np.uint64(data[p])) * np.uint64(0x100000001B3)
        slot = np.int64((h ^ (h >> np.uint64(32))) & np.uint64(mask))
        while True:
            d = table[slot]
            if d < 0:
                table[slot] = found
                first[found] = i
                index[i] = found
                found += 1
                break
            q = start[first[d]]
            if end[first[d]] - q == length:
                same = True
                for b in range(length):
                    if data[q + b] != data[start[i] + b]:
                        same = False
                        break
                if same:
                    index[i] = d
                    break
            slot = (slot + 1) & mask
    return first[:found].copy(), index
