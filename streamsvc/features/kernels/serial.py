"""Payloads as words of a tile batch: what is used of the block, so equal content is equal words.

In a batch the word of a handle holds how many words of payload follow the tile's own, 0 for none;
payloads come in the order of the extras.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64
from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.distinct import DENSE_CLASS, MOST_ZEROS, SPARSE, ZEROS
from streamsvc.features.kernels.estimate import LONGEST
from streamsvc.features.kernels.jit import kernel
from streamsvc.features.kernels.layout import UNIT, State
from streamsvc.features.kernels.payload import class_at, place_of, renew
from streamsvc.features.kernels.percentiles import COUNTS, MOST_BUCKETS, SHIFT
from streamsvc.features.kernels.pool import class_of
from streamsvc.features.kernels.program import (
    DISTINCT,
    EX_HANDLE,
    EX_KIND,
    EXTRA_WORDS,
    PERCENTILES,
    Program,
)

__all__ = ["check_payloads", "payload_words", "read_payloads", "write_payloads"]


@kernel
def _used(cx: Context, kind: int, at: int) -> int:
    """Words in use of the payload at handle `at`."""
    if cx.pool[at] == 0:
        return 0
    place = place_of(cx, at)
    if kind == DISTINCT:
        if class_at(cx, at) == DENSE_CLASS:
            return UNIT << DENSE_CLASS
        return cx.halves[place * 2] // 2 + 1
    if kind == PERCENTILES:
        return cx.pool[place] + 1
    return 1 + (cx.pool[place] + 7) // 8


@kernel
def payload_words(cx: Context, group: int, tile: int) -> int:
    """Words that the payloads of a tile take in a batch."""
    words = 0
    for x in range(cx.first_extra[group], cx.first_extra[group + 1]):
        e = x * EXTRA_WORDS
        if cx.extras[e + EX_HANDLE] >= 0:
            words += _used(cx, cx.extras[e + EX_KIND], tile + cx.extras[e + EX_HANDLE])
    return words


@kernel
def write_payloads(cx: Context, group: int, tile: int, words: I64, base: int, word: int) -> int:
    """Write a tile's payloads from `words[word]` on; `words[base]` is its first. Where they end."""
    for x in range(cx.first_extra[group], cx.first_extra[group + 1]):
        e = x * EXTRA_WORDS
        at_handle, kind = cx.extras[e + EX_HANDLE], cx.extras[e + EX_KIND]
        if at_handle < 0:
            continue
        n = _used(cx, kind, tile + at_handle)
        words[base + at_handle - 1] = n
        if n == 0:
            continue
        place = place_of(cx, tile + at_handle)
        for w in range(n):
            words[word + w] = cx.pool[place + w]
        word += n
        if kind == DISTINCT and n < UNIT << DENSE_CLASS and cx.halves[place * 2] % 2 == 0:
            words[word - 1] &= 0xFFFFFFFF
    return word


@kernel
def read_payloads(cx: Context, group: int, tile: int, words: I64, base: int, word: int) -> bool:
    """Make the payloads that `write_payloads` left of a tile without any.

    False if the pool must grow first: the tile is then to be loaded again.
    """
    for x in range(cx.first_extra[group], cx.first_extra[group + 1]):
        if cx.extras[x * EXTRA_WORDS + EX_HANDLE] >= 0:
            cx.pool[tile + cx.extras[x * EXTRA_WORDS + EX_HANDLE]] = 0
    for x in range(cx.first_extra[group], cx.first_extra[group + 1]):
        at_handle = cx.extras[x * EXTRA_WORDS + EX_HANDLE]
        if at_handle < 0:
            continue
        n = words[base + at_handle - 1]
        if n == 0:
            continue
        if not renew(cx, tile + at_handle, class_of(n), 0):
            return False
        place = place_of(cx, tile + at_handle)
        for w in range(n):
            cx.pool[place + w] = words[word + w]
        word += n
    return True


@kernel
def check_payloads(
    st: State, pg: Program, group: I64, words: I64, words_end: I64, payload: I64
) -> bool:
    """Whether the payloads of a batch are as long as its tiles say, and such as kernels make them.

    What this lets through can be wrong, but not reach beyond what is its own: registers are indices
    to the estimator, and a union is cleared from the first bucket of a sketch to the last.
    """
    cx = bind(st, pg)
    for j in range(len(group)):
        g = group[j]
        word = words_end[j] - payload[j]
        base = word - (cx.stride[g] - 1)
        for x in range(cx.first_extra[g], cx.first_extra[g + 1]):
            e = x * EXTRA_WORDS
            at_handle, kind = cx.extras[e + EX_HANDLE], cx.extras[e + EX_KIND]
            if at_handle < 0:
                continue
            n = words[base + at_handle - 1]
            if n < 0 or word + n > words_end[j]:
                return False
            if n > 0 and not _fits(kind, n, words, word):
                return False
            word += n
        if word != words_end[j]:
            return False
    return True


@kernel
def _fits(kind: int, n: int, words: I64, at: int) -> bool:
    """Whether `n` words from `words[at]` on are a payload."""
    head: int = words[at]
    if kind == DISTINCT:
        if n == UNIT << DENSE_CLASS:
            return _are_registers(words, at, n)
        entries = head & 0xFFFFFFFF
        return entries <= SPARSE and n == entries // 2 + 1 and _are_entries(words, at, entries)
    if kind == PERCENTILES:
        return 0 < head <= MOST_BUCKETS and n == head + 1 and _are_buckets(words, at + 1, head)
    return head >= 0 and n == 1 + (head + 7) // 8


@kernel
def _are_registers(words: I64, at: int, n: int) -> bool:
    """Whether no byte is greater than LONGEST: eight bytes at a time, what sets the top bit of a
    byte, by itself or with 127 - LONGEST added, is too great."""
    tops = np.uint64(0x8080808080808080)
    room = np.uint64((127 - LONGEST) * 0x0101010101010101)
    found = np.uint64(0)
    for w in range(at, at + n):
        word = np.uint64(words[w])
        found |= word | (word & ~tops) + room
    return found & tops == 0


@kernel
def _are_entries(words: I64, at: int, n: int) -> bool:
    """Whether the ranks of sparse entries are ranks."""
    for k in range(1, n + 1):
        zeros = words[at + k // 2] >> (32 * (k & 1)) & ZEROS
        if zeros < 1 or zeros > MOST_ZEROS + 1:
            return False
    return True


@kernel
def _are_buckets(words: I64, at: int, n: int) -> bool:
    """Whether buckets are in order and none is empty."""
    for w in range(at, at + n):
        if words[w] & COUNTS == 0 or (w > at and words[w] >> SHIFT <= words[w - 1] >> SHIFT):
            return False
    return True
