"""The extras of a tile in a batch into those of a tile here: sketches, text, the latest row."""

from __future__ import annotations

from streamsvc.columns import I64, U8
from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.distinct import DENSE_CLASS, add_entry, add_registers
from streamsvc.features.kernels.extras import LATEST_VALUE
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import PAYLOAD_STEP, UNIT
from streamsvc.features.kernels.payload import drop_payload, place_of
from streamsvc.features.kernels.percentiles import add_buckets
from streamsvc.features.kernels.program import (
    DISTINCT,
    EX_AT,
    EX_HANDLE,
    EX_KIND,
    EX_TYPE,
    EXTRA_WORDS,
    LATEST,
    PERCENTILES,
    TEXT_FIRST,
    TEXT_MAX,
    TEXT_MIN,
    TEXTS,
)
from streamsvc.features.kernels.texts import compare, put_text

__all__ = ["merge_extras"]


@kernel
def merge_extras(cx: Context, group: int, tile: int, words: I64, data: U8, base: int) -> bool:
    """Add the extras of the tile at `words[base]`, as `write_payloads` left it; `data` is the same
    as bytes.

    False if the pool must grow first: called again for the same tile, it goes on where it stopped.
    """
    done = cx.meta[PAYLOAD_STEP]
    word = base + cx.stride[group] - 1
    first = cx.first_extra[group]
    for x in range(first, cx.first_extra[group + 1]):
        e = x * EXTRA_WORDS
        at_handle = cx.extras[e + EX_HANDLE]
        given = base + cx.extras[e + EX_AT] - 1
        n = words[base + at_handle - 1] if at_handle >= 0 else 0
        at = tile + cx.extras[e + EX_AT]
        if x - first >= done and not _merge(cx, e, at, words, data, given, word, n):
            cx.meta[PAYLOAD_STEP] = x - first
            return False
        word += n
    cx.meta[PAYLOAD_STEP] = 0
    return True


@inlined
def _merge(
    cx: Context, e: int, at: int, words: I64, data: U8, given: int, word: int, n: int
) -> bool:
    """The accumulator at `words[given]`, with a payload of n words at `words[word]`, into `at`."""
    kind = cx.extras[e + EX_KIND]
    if kind == LATEST:
        return _merge_latest(cx, at, words, data, given, word, cx.extras[e + EX_TYPE] == TEXTS)
    if n == 0:
        return True
    if kind == DISTINCT:
        return _merge_distinct(cx, at, words, word, n)
    if kind == PERCENTILES:
        return add_buckets(cx, at, words, word)
    return _merge_text(cx, kind, at, words, data, given, word)


@kernel
def _merge_text(
    cx: Context, kind: int, at: int, words: I64, data: U8, given: int, word: int
) -> bool:
    if kind in (TEXT_MIN, TEXT_MAX):
        if cx.pool[at] > 0:
            place = place_of(cx, at)
            sign = compare(
                data, (word + 1) * 8, words[word], cx.bytes, (place + 1) * 8, cx.pool[place]
            )
            if (sign >= 0) if kind == TEXT_MIN else (sign <= 0):
                return True
        return put_text(cx, at, data, (word + 1) * 8, words[word])
    if cx.pool[at + 3] > 0 and _before(words, given, cx.pool, at) != (kind == TEXT_FIRST):
        return True
    if not put_text(cx, at + 3, data, (word + 1) * 8, words[word]):
        return False
    _put_position(cx, at, words, given)
    return True


@kernel
def _merge_distinct(cx: Context, at: int, words: I64, word: int, n: int) -> bool:
    if n == UNIT << DENSE_CLASS:
        return add_registers(cx, at, words, word)
    for k in range(1, (words[word] & 0xFFFFFFFF) + 1):
        # Added again after the pool has grown, an entry changes nothing.
        if not add_entry(cx, at, words[word + k // 2] >> (32 * (k & 1)) & 0xFFFFFFFF):
            return False
    return True


@kernel
def _merge_latest(
    cx: Context, at: int, words: I64, data: U8, given: int, word: int, is_text: bool
) -> bool:
    if words[given + 4] == 0 or (cx.pool[at + 4] != 0 and _before(words, given, cx.pool, at)):
        return True
    if not is_text:
        cx.pool[at + 3] = words[given + 3]
    elif words[given + 4] != LATEST_VALUE:
        drop_payload(cx, at + 3)
    elif not put_text(cx, at + 3, data, (word + 1) * 8, words[word]):
        return False
    cx.pool[at + 4] = words[given + 4]
    _put_position(cx, at, words, given)
    return True


@inlined
def _before(a: I64, i: int, b: I64, j: int) -> bool:
    """Whether the position (event time, partition, offset) at a[i:] comes before that at b[j:]."""
    for k in range(3):
        if a[i + k] != b[j + k]:
            return a[i + k] < b[j + k]
    return False


@inlined
def _put_position(cx: Context, at: int, words: I64, given: int) -> None:
    for k in range(3):
        cx.pool[at + k] = words[given + k]
