"""Integers of variable length and text, as Avro and Protobuf have them, compiled.

`a` points to the data (a bare pointer: numba counts references to every array that it passes on),
`p` is a position in it and `e` where the record ends; nothing at or past `e` is read.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from streamsvc.events.jit import inlined
from streamsvc.events.utf8 import sequence_end
from streamsvc.features.kernels.pointers import word_at

__all__ = ["fixed32", "utf8_end", "varint", "zigzag"]

_NOT_ASCII = np.uint64(0x8080808080808080)


@inlined
def varint(a: Any, p: int, e: int, last: int) -> tuple[Any, Any]:
    """The base-128 number at `p`, low bits first, as the 64-bit word that it makes.

    Returns the word and the position behind it: -1 where the record ends within, -2 where the
    number does not fit 64 bits. `last` is how large the tenth byte may be: 1, or 127 where what
    does not fit is dropped.
    """
    word: Any = np.uint64(0)
    after = -1
    shift = np.uint64(0)
    while p < e:
        b = np.uint64(a[p])
        p += 1
        if shift == np.uint64(63) and b > np.uint64(last):
            after = -2
            break
        word |= (b & np.uint64(127)) << shift
        if b < np.uint64(128):
            after = p
            break
        shift += np.uint64(7)
    return word, after


@inlined
def zigzag(word: Any) -> Any:
    """The signed number that a word stands for: 0, -1, 1, -2, …"""
    return np.int64(word >> np.uint64(1)) ^ -np.int64(word & np.uint64(1))


@inlined
def fixed32(a: Any, p: int) -> Any:
    """The four bytes at `p`, little endian, without sign."""
    return (
        np.uint32(a[p])
        | np.uint32(a[p + 1]) << np.uint32(8)
        | np.uint32(a[p + 2]) << np.uint32(16)
        | np.uint32(a[p + 3]) << np.uint32(24)
    )


@inlined
def utf8_end(a: Any, p: int, e: int) -> int:
    """`e` if the bytes from `p` to `e` are UTF-8, else where they are not."""
    while p < e:
        if p + 8 <= e and word_at(a, p) & _NOT_ASCII == np.uint64(0):
            p += 8
            continue
        c = a[p]
        if c < 0x80:
            p += 1
            continue
        q = sequence_end(a, p, e)
        if q < 0:
            break
        p = q
    return p
