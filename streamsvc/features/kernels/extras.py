"""Accumulators beside the plain ones: sketches, text, and the latest row.

They are kept apart from `accumulate` and `fold`, which run for every event of every view.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64
from streamsvc.features.kernels.accumulate import Input, before
from streamsvc.features.kernels.bits import bits_of
from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.distinct import add_entry, entry_of
from streamsvc.features.kernels.hashing import hash_text, hash_word
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import PAYLOAD_STEP
from streamsvc.features.kernels.payload import drop_payload, place_of
from streamsvc.features.kernels.percentiles import add_number, bucket_of
from streamsvc.features.kernels.program import (
    DISTINCT,
    EX_AT,
    EX_COLUMN,
    EX_KIND,
    EX_TYPE,
    EXTRA_WORDS,
    FLOATS,
    LATEST,
    PERCENTILES,
    TEXT_BITS,
    TEXT_FIRST,
    TEXT_MAX,
    TEXT_MIN,
    TEXTS,
)
from streamsvc.features.kernels.texts import compare, put_text

__all__ = ["LATEST_NULL", "LATEST_VALUE", "put_extras"]

# The fifth word of LATEST; 0 before the first row.
LATEST_NULL, LATEST_VALUE = 1, 2
_LENGTH = (1 << TEXT_BITS) - 1


@kernel
def put_extras(cx: Context, tiles: I64, rows: Input, i: int) -> bool:
    """Add row i to the extras of the tiles at these addresses, one a group (-1: none).

    False if the pool must grow first: called again for the same row, it goes on where it stopped.
    """
    done = cx.meta[PAYLOAD_STEP]
    step = 0
    for group in range(cx.groups):
        for x in range(cx.first_extra[group], cx.first_extra[group + 1]):
            if step >= done and tiles[group] >= 0:
                e = x * EXTRA_WORDS
                if not _put(cx, e, tiles[group] + cx.extras[e + EX_AT], rows, i):
                    cx.meta[PAYLOAD_STEP] = step
                    return False
            step += 1
    cx.meta[PAYLOAD_STEP] = 0
    return True


@inlined
def _put(cx: Context, e: int, at: int, rows: Input, i: int) -> bool:
    """Row i into the accumulator at word address `at`."""
    kind = cx.extras[e + EX_KIND]
    is_text = cx.extras[e + EX_TYPE] == TEXTS
    cell = cx.extras[e + EX_COLUMN] * rows.n + i
    word = rows.words[cell]
    valid = rows.valid[cell] != 0
    if valid and cx.extras[e + EX_TYPE] == FLOATS:
        valid = not np.isnan(rows.numbers[cell])
    if kind == LATEST:
        return _put_latest(cx, at, rows, i, is_text, word, valid)
    if not valid:
        return True
    if kind == DISTINCT:
        if is_text:
            return add_entry(
                cx, at, entry_of(hash_text(rows.texts, word >> TEXT_BITS, word & _LENGTH))
            )
        if cx.extras[e + EX_TYPE] == FLOATS and rows.numbers[cell] == 0.0:
            word = 0  # minus nought is nought
        return add_entry(cx, at, entry_of(hash_word(word)))
    if kind == PERCENTILES:
        if cx.extras[e + EX_TYPE] != FLOATS:
            word = bits_of(float(word))
        return add_number(cx, at, bucket_of(word))
    return _put_text(cx, kind, at, rows, i, word)


@inlined
def _put_text(cx: Context, kind: int, at: int, rows: Input, i: int, word: int) -> bool:
    start, length = word >> TEXT_BITS, word & _LENGTH
    if kind in (TEXT_MIN, TEXT_MAX):
        if cx.pool[at] > 0:
            place = place_of(cx, at)
            sign = compare(rows.texts, start, length, cx.bytes, (place + 1) * 8, cx.pool[place])
            if (sign >= 0) if kind == TEXT_MIN else (sign <= 0):
                return True
        return put_text(cx, at, rows.texts, start, length)
    if cx.pool[at + 3] > 0 and before(rows, i, cx, at) != (kind == TEXT_FIRST):
        return True
    if not put_text(cx, at + 3, rows.texts, start, length):
        return False
    _put_position(cx, at, rows, i)
    return True


@inlined
def _put_latest(
    cx: Context, at: int, rows: Input, i: int, is_text: bool, word: int, valid: bool
) -> bool:
    if cx.pool[at + 4] != 0 and before(rows, i, cx, at):
        return True
    if is_text:
        if not valid:
            drop_payload(cx, at + 3)
        elif not put_text(cx, at + 3, rows.texts, word >> TEXT_BITS, word & _LENGTH):
            return False
    else:
        cx.pool[at + 3] = word if valid else 0
    cx.pool[at + 4] = LATEST_VALUE if valid else LATEST_NULL
    _put_position(cx, at, rows, i)
    return True


@inlined
def _put_position(cx: Context, at: int, rows: Input, i: int) -> None:
    cx.pool[at] = rows.time[i]
    cx.pool[at + 1] = rows.partition[i]
    cx.pool[at + 2] = rows.offset[i]
