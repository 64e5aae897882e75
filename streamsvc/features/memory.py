"""Arrays that grow to gigabytes without being copied."""

from __future__ import annotations

import mmap
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["Growable"]

T = TypeVar("T", np.int64, np.uint8)

_LARGE = 4 << 20
"""Bytes from which an array gets pages of its own."""


class Growable(Generic[T]):
    """An array of zeros, shape (n, …), that grows in place.

    A large one lives in an anonymous mapping, which the kernel extends by moving page tables, not
    bytes, and backs with huge pages: random access to tiles otherwise waits for the page walk as
    long as for memory. Reads of `array` must not outlive the next `grow`.
    """

    def __init__(self, shape: tuple[int, ...], dtype: type[T]) -> None:
        self._row = shape[1:]
        self._dtype: np.dtype[T] = np.dtype(dtype)
        self._mapping: mmap.mmap | None = None
        self._array: NDArray[T] | None = np.zeros(shape, dtype)

    @property
    def array(self) -> NDArray[T]:
        """All of it, as it is now."""
        assert self._array is not None
        return self._array

    def grow(self, n: int) -> None:
        """Make it n rows long. Raises BufferError if an array from before is still referenced."""
        size = n * self._dtype.itemsize * int(np.prod(self._row, dtype=np.int64))
        if size < _LARGE:
            self._array = _copied(self.array, np.zeros((n, *self._row), self._dtype))
            return
        size = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
        if self._mapping is None or not hasattr(mmap, "MADV_HUGEPAGE"):
            # Private: a shared anonymous mapping does not grow with its address range.
            mapping = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            if hasattr(mmap, "MADV_HUGEPAGE"):
                mapping.madvise(mmap.MADV_HUGEPAGE)
            _copied(self.array, self._view(mapping, n))
            self._mapping = mapping
        else:
            self._array = None
            self._mapping.resize(size)
        self._array = self._view(self._mapping, n)

    def _view(self, mapping: mmap.mmap, n: int) -> NDArray[T]:
        count = n * int(np.prod(self._row, dtype=np.int64))
        return np.frombuffer(mapping, self._dtype, count).reshape(n, *self._row)


def _copied(old: NDArray[T], new: NDArray[T]) -> NDArray[T]:
    new[: len(old)] = old
    return new
