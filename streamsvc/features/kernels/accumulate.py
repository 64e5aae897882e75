"""One value into a tile.

Variance follows Welford (Technometrics 1962): mean and sum of squared deviations, so that nothing
is ever taken out of a sum again. `first` and `last` keep (event time, partition, offset, value).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamsvc.columns import F64, I64, U8
from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.pointers import as_floats, pointer
from streamsvc.features.kernels.program import (
    AT_COUNT,
    AT_FIRST,
    AT_INT_SUM,
    AT_LAST,
    AT_MAX,
    AT_MIN,
    AT_MOMENTS,
    AT_SUM,
    COLUMN,
    ENTRY_WORDS,
    FLOATS,
    KIND,
    NULLS,
)

__all__ = ["Input", "accumulate", "before", "bind_input"]


class Input(NamedTuple):
    """The rows of a chunk, as pointers; row i of column c is at c * n + i."""

    time: I64
    partition: I64
    offset: I64
    words: I64
    numbers: F64
    """The words as floats."""
    valid: U8
    texts: U8
    """What the words of text columns point into."""
    n: int


@kernel
def bind_input(time: I64, partition: I64, offset: I64, words: I64, valid: U8, texts: U8) -> Input:
    """Pointers to a chunk."""
    return Input(
        pointer(time),
        pointer(partition),
        pointer(offset),
        pointer(words),
        as_floats(words),
        pointer(valid),
        pointer(texts),
        len(time),
    )


@inlined
def accumulate(cx: Context, group: int, tile: int, rows: Input, i: int) -> None:
    """Add row i to the tile at word address `tile`; nulls and NaN are skipped."""
    first_entry = cx.first_entry[group] * ENTRY_WORDS
    for e in range(first_entry, cx.first_entry[group + 1] * ENTRY_WORDS, ENTRY_WORDS):
        at = cx.entries[e + COLUMN] * rows.n + i
        if rows.valid[at] == 0:
            continue
        at_count = tile + cx.entries[e + AT_COUNT]
        kind = cx.entries[e + KIND]
        if kind == NULLS:
            cx.pool[at_count] += 1
            continue
        value = rows.words[at]
        number = rows.numbers[at] if kind == FLOATS else float(value)
        if np.isnan(number):
            continue
        count = cx.pool[at_count] + 1
        cx.pool[at_count] = count
        if cx.entries[e + AT_INT_SUM] >= 0:
            cx.pool[tile + cx.entries[e + AT_INT_SUM]] += value
        if cx.entries[e + AT_SUM] >= 0:
            cx.floats[tile + cx.entries[e + AT_SUM]] += number
        if cx.entries[e + AT_MOMENTS] >= 0:
            _moments(cx, tile + cx.entries[e + AT_MOMENTS], count, number)
        if kind == FLOATS:
            _extremes_of_floats(cx, tile, e, count, number)
        else:
            _extremes_of_ints(cx, tile, e, count, value)
        at_first = cx.entries[e + AT_FIRST]
        if at_first >= 0 and (count == 1 or before(rows, i, cx, tile + at_first)):
            _put(cx, tile + at_first, rows, i, value)
        at_last = cx.entries[e + AT_LAST]
        if at_last >= 0 and (count == 1 or not before(rows, i, cx, tile + at_last)):
            _put(cx, tile + at_last, rows, i, value)


@inlined
def _moments(cx: Context, a: int, count: int, number: float) -> None:
    delta = number - cx.floats[a]
    mean = cx.floats[a] + delta / count
    cx.floats[a] = mean
    cx.floats[a + 1] += delta * (number - mean)


@inlined
def _extremes_of_floats(cx: Context, tile: int, e: int, count: int, number: float) -> None:
    a = cx.entries[e + AT_MIN]
    if a >= 0 and (count == 1 or number < cx.floats[tile + a]):
        cx.floats[tile + a] = number
    a = cx.entries[e + AT_MAX]
    if a >= 0 and (count == 1 or number > cx.floats[tile + a]):
        cx.floats[tile + a] = number


@inlined
def _extremes_of_ints(cx: Context, tile: int, e: int, count: int, value: int) -> None:
    a = cx.entries[e + AT_MIN]
    if a >= 0 and (count == 1 or value < cx.pool[tile + a]):
        cx.pool[tile + a] = value
    a = cx.entries[e + AT_MAX]
    if a >= 0 and (count == 1 or value > cx.pool[tile + a]):
        cx.pool[tile + a] = value


@inlined
def before(rows: Input, i: int, cx: Context, a: int) -> bool:
    """Whether row i comes before the position (event time, partition, offset) at address a."""
    if rows.time[i] != cx.pool[a]:
        return rows.time[i] < cx.pool[a]
    if rows.partition[i] != cx.pool[a + 1]:
        return rows.partition[i] < cx.pool[a + 1]
    return rows.offset[i] < cx.pool[a + 2]


@inlined
def _put(cx: Context, a: int, rows: Input, i: int, value: int) -> None:
    cx.pool[a] = rows.time[i]
    cx.pool[a + 1] = rows.partition[i]
    cx.pool[a + 2] = rows.offset[i]
    cx.pool[a + 3] = value
