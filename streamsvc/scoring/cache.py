"""Scores of vectors that were scored before, for routes whose vectors repeat.

A score is a function of the model version and the vector, so a cached one is as good as a fresh one
and never grows old. The table is direct-mapped: a vector has one place, by its hash, and the newest
has it. So looking up and putting in are a handful of array operations for a whole batch.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import I64, U64, Bools
from streamsvc.scoring.model import F32

__all__ = ["ScoreCache", "VectorHash", "words"]

U32: TypeAlias = NDArray[np.uint32]

_SEED = 20_141


class VectorHash:
    """64 bits of a vector, the same in every worker. Equal hashes are no proof of equal vectors."""

    def __init__(self, features: int) -> None:
        # Multilinear hashing, with odd multipliers; Lemire and Kaser: Strongly universal string
        # hashing is fast (2014).
        rng = np.random.default_rng(_SEED)
        self._by = rng.integers(0, 2**63, features, np.uint64) * np.uint64(2) + np.uint64(1)

    def __call__(self, bits: U32) -> U64:
        """Hashes of n vectors as `words` gives them, (n,); none is 0."""
        word: U64 = (bits * self._by).sum(axis=1, dtype=np.uint64)
        word = (word ^ (word >> np.uint64(32))) * np.uint64(0x9E3779B97F4A7C15)
        return word | np.uint64(1)


def words(inputs: F32) -> U32:
    """Vectors as words, so that a missing value equals a missing value."""
    found: U32 = np.ascontiguousarray(inputs).view(np.uint32)
    return found


class ScoreCache:
    """The scores of one model version. Not thread-safe: belongs to one event loop."""

    def __init__(self, features: int, megabytes: int, scores: int = 1) -> None:
        """Room for as many vectors of so many features, with so many scores each, as fit: a power
        of two."""
        row_bytes = 4 * features + 8 + 4 * scores
        places = 1 << max(0, (megabytes * 1_000_000 // row_bytes).bit_length() - 1)
        self._mask = np.uint64(places - 1)
        self._hash = np.zeros(places, np.uint64)
        """0 where there is nothing."""
        self._vectors = np.empty((places, features), np.uint32)
        self._scores = np.empty((places, scores), np.float32)
        self._hashes = VectorHash(features)

    def find(self, inputs: F32) -> tuple[Bools, F32]:
        """Which of n vectors are known, (n,), and their scores, (n, scores): anything for the
        others."""
        bits = words(inputs)
        hashes = self._hashes(bits)
        at = self._places(hashes)
        known = self._hash[at] == hashes
        maybe = np.flatnonzero(known)
        known[maybe] = (self._vectors[at[maybe]] == bits[maybe]).all(axis=1)
        return known, self._scores[at]

    def put(self, inputs: F32, scores: F32) -> None:
        """Remember the scores of these vectors, (n, scores)."""
        bits = words(inputs)
        hashes = self._hashes(bits)
        at = self._places(hashes)
        # Of two with one place the last has it, as NumPy assigns in order: the same one in all
        # three arrays.
        self._hash[at] = hashes
        self._vectors[at] = bits
        self._scores[at] = scores

    def _places(self, hashes: U64) -> I64:
        found: I64 = ((hashes >> np.uint64(20)) & self._mask).astype(np.int64)
        return found
