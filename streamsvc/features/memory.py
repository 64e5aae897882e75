"""Arrays that grow to gigabytes without being copied."""

from __future__ import annotations

import mmap
import sys
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Growable"]

T = TypeVar("T", np.int64, np.uint8)

_LARGE = 4 << 20
"""Bytes from which an array gets pages of its own."""
_AHEAD = 64
"""Address space that is set aside for a large array, as a multiple of its size: an array is copied
at 4 MB, at 256 MB and at 16 GB."""
_HUGE_PAGE = 2 << 20
# Not in Python's mmap before 3.13. Address space alone is no promise of memory.
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0


class Growable(Generic[T]):
    """An array of zeros, shape (n, …), that grows in place.

    A large one lies at the beginning of a stretch of address space, of which only what was touched
    takes memory, in huge pages: random access to tiles otherwise waits for the page walk as long as
    for memory. A mapping that grows by moving its page tables would lose them, unless it
    happened to move by a multiple of their size.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[T]) -> None:
        self._row = shape[1:]
        self._dtype: np.dtype[T] = np.dtype(dtype)
        self._space: NDArray[np.uint8] | None = None
        self._array: NDArray[T] = np.zeros(shape, dtype)

    @property
    def array(self) -> NDArray[T]:
        """All of it, as it is now."""
        return self._array

    def grow(self, n: int) -> None:
        """Make it n rows long, at least as many as it has. Arrays of before are stale."""
        count = n * int(np.prod(self._row, dtype=np.int64))
        size = count * self._dtype.itemsize
        if self._space is not None and size <= len(self._space):
            self._array = self._space[:size].view(self._dtype).reshape(n, *self._row)
            return
        if size < _LARGE:
            array = np.zeros((n, *self._row), self._dtype)
        else:
            self._space = _space(size)
            array = self._space[:size].view(self._dtype).reshape(n, *self._row)
        array[: len(self._array)] = self._array
        self._array = array


def _space(size: int) -> NDArray[np.uint8]:
    """Zeros that begin on the boundary of a huge page: more of them than `size`, if we may."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    try:
        mapping = mmap.mmap(-1, _AHEAD * size + _HUGE_PAGE, flags=flags | _NO_RESERVE)
    except OSError:  # address space is limited here: a copy each time, as it grows
        mapping = mmap.mmap(-1, size + _HUGE_PAGE, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapping.madvise(mmap.MADV_HUGEPAGE)
    raw = np.frombuffer(mapping, np.uint8)
    return raw[-raw.ctypes.data % _HUGE_PAGE :]
