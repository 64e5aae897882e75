"""The loops of the row codec, compiled. Words are little-endian int64; the layout is in `row`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from streamsvc.columns import I64, U8, Bools

__all__ = ["put_fixed", "put_tail", "unpack"]

_HEADER_WORDS = 4


@njit(cache=True, nogil=True)
def put_fixed(out: I64, at: I64, words: NDArray[np.int64]) -> None:
    """Copy the fixed part of row i, `words[i]`, to word `at[i]` of the output."""
    for i in range(len(at)):
        for j in range(words.shape[1]):
            out[at[i] + j] = words[i, j]


@njit(cache=True, nogil=True)
def put_tail(
    out: U8,
    out_words: I64,
    row_start: I64,
    cursor: I64,
    word: int,
    width: int,
    data: U8,
    start: I64,
    end: I64,
    valid: Bools,
) -> None:
    """Append one column to the rows' tails at `cursor` and name its place in word `word`.

    A null leaves the word 0.
    """
    for i in range(len(row_start)):
        if not valid[i]:
            continue
        p = cursor[i]
        length = end[i] - start[i]
        for j in range(length):
            out[p + j] = data[start[i] + j]
        offset = p - row_start[i] - 8 * width
        out_words[(row_start[i] >> 3) + word] = offset | (length << 32)
        cursor[i] = p + length


@njit(cache=True, nogil=True)
def _swapped(word: int) -> int:
    """The low 32 bits of a word with their four bytes reversed."""
    return (
        ((word & 0xFF) << 24)
        | ((word & 0xFF00) << 8)
        | ((word >> 8) & 0xFF00)
        | ((word >> 24) & 0xFF)
    )


@njit(cache=True, nogil=True)
def unpack(
    words: I64,
    start: I64,
    end: I64,
    fingerprint: int,
    bitmap_words: int,
    in_tail: Bools,
    unpacked: I64,
    numbers: NDArray[np.int64],
    flags: NDArray[Any],
) -> int:
    """Spread rows `words[start[i]:end[i]]` into columns; `start[i] < 0` is an absent row.

    `numbers` receives incarnation, offset, as_of and valid_until, then a row of words for each
    feature in `unpacked`; for a feature in the tail that is where its bytes begin in the whole
    buffer, and, as many rows further down, where they end. `flags` receives what is present, then
    what is valid for each of these features. Returns how many rows were of another schema or
    damaged.
    """
    foreign = 0
    features = len(in_tail)
    chosen = len(unpacked)
    first = _HEADER_WORDS + bitmap_words
    for i in range(len(start)):
        p = start[i]
        if p < 0:
            continue
        if end[i] - p < first + features or ((words[p + 2] >> 32) & 0xFFFFFFFF) != fingerprint:
            foreign += 1
            continue
        tail = 8 * (p + first + features)
        damaged = False
        for f in range(features):
            if in_tail[f]:
                word = words[p + first + f]
                if tail + (word & 0xFFFFFFFF) + ((word >> 32) & 0xFFFFFFFF) > 8 * end[i]:
                    damaged = True
        if damaged:
            foreign += 1
            continue
        flags[0, i] = True
        numbers[0, i] = _swapped(words[p])
        numbers[1, i] = (_swapped(words[p] >> 32) << 32) | _swapped(words[p + 1])
        as_of = (_swapped(words[p + 1] >> 32) << 32) | _swapped(words[p + 2])
        numbers[2, i] = as_of ^ np.int64(-0x8000000000000000)
        numbers[3, i] = words[p + 3]
        for j in range(chosen):
            f = unpacked[j]
            word = words[p + first + f]
            bits = words[p + _HEADER_WORDS + (f >> 6)]
            flags[1 + j, i] = (bits >> (f & 63)) & 1
            if in_tail[f]:
                numbers[4 + j, i] = tail + (word & 0xFFFFFFFF)
                numbers[4 + chosen + j, i] = numbers[4 + j, i] + ((word >> 32) & 0xFFFFFFFF)
            else:
                numbers[4 + j, i] = word
    return foreign
