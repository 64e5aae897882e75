"""Arrays at the edge of the kernels."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import I64, U8, BytesColumn

__all__ = ["key_arrays", "longs", "packed_keys", "read_only"]

T = TypeVar("T", bound=np.generic)


def read_only(array: NDArray[T]) -> NDArray[T]:
    """A contiguous read-only view.

    Numba compiles a kernel once more for read-only arrays: with every input made read-only,
    there is one signature, whoever made the array.
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def longs(array: NDArray[np.generic]) -> I64:
    """An input of whole numbers, as kernels take it."""
    return read_only(np.asarray(array, np.int64))


def key_arrays(keys: BytesColumn) -> tuple[U8, I64, I64]:
    """Data, start and end of a column of keys, as kernels take them."""
    return read_only(keys.data), longs(keys.start), longs(keys.end)


def packed_keys(data: U8, end: I64) -> BytesColumn:
    """Keys that lie one after another: key i ends at `end[i]`."""
    start = np.zeros(len(end), np.int64)
    start[1:] = end[:-1]
    return BytesColumn(data, start, end, np.ones(len(end), np.bool_))
