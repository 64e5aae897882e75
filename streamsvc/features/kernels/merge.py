"""Tiles of a state into those of another one that saw other events of the same view.

What a tile holds of two sets of events is what it would hold of both: counts, extremes, first, last
and sketches to the bit, sums and moments but for the order in which they were added.
"""

from __future__ import annotations

from typing import NamedTuple

from streamsvc.columns import F64, I64, U8
from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.fold import settle
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.key_index import find_key, forget_key, insert_key, tag_of
from streamsvc.features.kernels.layout import AS_OF, CLOCK, NEVER, State
from streamsvc.features.kernels.load import Inputs
from streamsvc.features.kernels.merge_extras import merge_extras
from streamsvc.features.kernels.pointers import as_bytes, as_floats, pointer
from streamsvc.features.kernels.program import (
    AT_COUNT,
    AT_FIRST,
    AT_INT_SUM,
    AT_LAST,
    AT_MAX,
    AT_MIN,
    AT_MOMENTS,
    AT_SUM,
    ENTRY_WORDS,
    FLOATS,
    KIND,
    Program,
)
from streamsvc.features.kernels.rings import create_tile, find_tile
from streamsvc.features.kernels.schedule import reschedule

__all__ = ["merge"]


class Words(NamedTuple):
    """The words of a batch, and the same as floats and bytes."""

    words: I64
    floats: F64
    bytes: U8


@kernel
def merge(st: State, pg: Program, batch: Inputs, key_of: I64, low: int, high: int) -> int:
    """Add tiles [low, high) of a batch, of which tile j is of key `key_of[j]`. Where to resume."""
    cx = bind(st, pg)
    raw = pointer(batch.keys)
    given = Words(pointer(batch.words), as_floats(batch.words), as_bytes(batch.words))
    for j in range(low, high):
        key = key_of[j]
        start, end = batch.key_start[key], batch.key_end[key]
        tag = tag_of(raw, start, end)
        slot = find_key(cx, tag, raw, start, end)
        if slot < 0:
            slot = insert_key(cx, tag, raw, start, end)
            if slot < 0:
                return j
        s = slot * cx.width
        cx.slots[s + AS_OF] = max(cx.slots[s + AS_OF], batch.as_of[key])
        group = batch.group[j]
        q = batch.start[j] // cx.hop[group]
        tile = find_tile(cx, slot, group, q)
        if tile < 0:
            tile = create_tile(cx, slot, group, q)
            if tile < 0:
                return j
        base = batch.words_end[j] - (cx.stride[group] - 1)
        if cx.n_extras > 0:
            base -= batch.payload[j]
            # All that may have to wait for room, before anything that cannot be done twice.
            if not merge_extras(cx, group, tile, given.words, given.bytes, base):
                return j
        for e in range(cx.first_entry[group], cx.first_entry[group + 1]):
            _merge_entry(cx, e * ENTRY_WORDS, tile, given, base - 1)
        if j + 1 == len(key_of) or key_of[j + 1] != key:
            due = settle(cx, slot, cx.meta[CLOCK])
            reschedule(cx, slot, due)
            if due == NEVER:
                forget_key(cx, slot)
    return high


@inlined
def _merge_entry(cx: Context, e: int, tile: int, given: Words, base: int) -> None:
    """One entry of the tile whose words are at `base` + their place in a tile."""
    n = given.words[base + cx.entries[e + AT_COUNT]]
    if n == 0:
        return
    count = cx.pool[tile + cx.entries[e + AT_COUNT]]
    cx.pool[tile + cx.entries[e + AT_COUNT]] = count + n
    a = cx.entries[e + AT_INT_SUM]
    if a >= 0:
        cx.pool[tile + a] += given.words[base + a]
    a = cx.entries[e + AT_SUM]
    if a >= 0:
        cx.floats[tile + a] += given.floats[base + a]
    a = cx.entries[e + AT_MOMENTS]
    if a >= 0:
        # Chan, Golub & LeVeque 1979: merge of two sets of moments.
        delta = given.floats[base + a] - cx.floats[tile + a]
        share = n / (count + n)
        cx.floats[tile + a] += delta * share
        cx.floats[tile + a + 1] += given.floats[base + a + 1] + delta * delta * (count * share)
    is_float = cx.entries[e + KIND] == FLOATS
    a = cx.entries[e + AT_MIN]
    if a >= 0 and (count == 0 or _is_less(cx, given, base + a, tile + a, is_float)):
        cx.pool[tile + a] = given.words[base + a]
    a = cx.entries[e + AT_MAX]
    if a >= 0 and (count == 0 or _is_greater(cx, given, base + a, tile + a, is_float)):
        cx.pool[tile + a] = given.words[base + a]
    a = cx.entries[e + AT_FIRST]
    if a >= 0 and (count == 0 or _is_before(given.words, base + a, cx.pool, tile + a)):
        _copy(given.words, base + a, cx.pool, tile + a)
    a = cx.entries[e + AT_LAST]
    if a >= 0 and (count == 0 or _is_before(cx.pool, tile + a, given.words, base + a)):
        _copy(given.words, base + a, cx.pool, tile + a)


@inlined
def _is_less(cx: Context, given: Words, there: int, here: int, is_float: bool) -> bool:
    if is_float:
        return given.floats[there] < cx.floats[here]
    return given.words[there] < cx.pool[here]


@inlined
def _is_greater(cx: Context, given: Words, there: int, here: int, is_float: bool) -> bool:
    if is_float:
        return given.floats[there] > cx.floats[here]
    return given.words[there] > cx.pool[here]


@inlined
def _is_before(a: I64, i: int, b: I64, j: int) -> bool:
    """Whether the position (event time, partition, offset) at a[i:] comes before that at b[j:]."""
    for k in range(3):
        if a[i + k] != b[j + k]:
            return a[i + k] < b[j + k]
    return False


@inlined
def _copy(a: I64, i: int, b: I64, j: int) -> None:
    """A position and its value."""
    for k in range(4):
        b[j + k] = a[i + k]
