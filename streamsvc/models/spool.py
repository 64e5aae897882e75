"""A training set in a file: for one that is larger than memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamsvc.models.artifact import F32

__all__ = ["Spool"]


class Spool:
    """Blocks of float32 rows, written one after the other and read as one matrix."""

    def __init__(self, folder: Path, columns: int) -> None:
        self._path = folder / "rows.f32"
        self._columns = columns
        self._rows = 0

    def add(self, block: F32) -> None:
        """Append rows, shape (n, columns)."""
        with self._path.open("ab") as file:
            block.astype("<f4").tofile(file)
        self._rows += len(block)

    def matrix(self) -> F32:
        """All rows, shape (n, columns): pages of the file, which memory may let go of again."""
        return np.memmap(self._path, "<f4", "r", shape=(self._rows, self._columns))
