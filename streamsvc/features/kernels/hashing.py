"""64-bit hashes of values. They are persisted inside sketches: never change them."""

from __future__ import annotations

import numpy as np

from streamsvc.columns import U8
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.pointers import word_at

__all__ = ["hash_text", "hash_word"]

_SEED = 0x9E3779B97F4A7C15
_M = 0xC6A4A7935BD1E995


@inlined
def hash_word(word: int) -> int:
    """SplitMix64 (Steele, Lea & Flood 2014) of a word: one to one, so words never collide."""
    h = np.uint64(word) + np.uint64(_SEED)
    h = (h ^ (h >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return h ^ (h >> np.uint64(31))  # type: ignore[return-value]


@kernel
def hash_text(data: U8, start: int, length: int) -> int:
    """MurmurHash64A (Austin Appleby, public domain) of bytes."""
    m = np.uint64(_M)
    h = np.uint64(_SEED) ^ (np.uint64(length) * m)
    p, end = start, start + length
    while p + 8 <= end:
        k = word_at(data, p) * m
        k ^= k >> np.uint64(47)
        h = (h ^ (k * m)) * m
        p += 8
    if p < end:
        tail = np.uint64(0)
        for i in range(end - 1, p - 1, -1):
            tail = (tail << np.uint64(8)) | np.uint64(data[i])
        h = (h ^ tail) * m
    h = (h ^ (h >> np.uint64(47))) * m
    return h ^ (h >> np.uint64(47))  # type: ignore[return-value]
