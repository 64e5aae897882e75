"""Asking for cache lines some rows before they are read.

Keys lie anywhere in memory: without this a row waits for a dozen lines, one after another. First
comes the place in the index, then the slot that it names, then the key and the tiles that the slot
names. A wrong guess costs a line and nothing else.
"""

from __future__ import annotations

from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import inlined
from streamsvc.features.kernels.layout import (
    HOLDS,
    KEY,
    KEY_BYTES,
    KEY_ID,
    LOW,
    NEXT,
    PREV,
    RING_BLOCK,
    RING_ROOM,
    RING_SPAN,
    UNIT,
)
from streamsvc.features.kernels.pointers import prefetch
from streamsvc.features.kernels.rings import digest_of, ring_block, ring_count, ring_of, tile_at

__all__ = [
    "expect_ends",
    "expect_key",
    "expect_links",
    "expect_newest",
    "expect_rings",
    "expect_row",
    "expect_slot",
    "likely_slot",
]

LINES = 16
"""Cache lines to ask for per ring; the processor sees the pattern of longer ones by itself."""


@inlined
def likely_slot(cx: Context, tag: int) -> int:
    """The slot that the first place of a tag in the index names, or -1."""
    return (cx.table[tag & cx.table_mask] & LOW) - 1


@inlined
def expect_slot(cx: Context, slot: int) -> None:
    """Ask for a slot with its rings."""
    s = slot * cx.width
    prefetch(cx.slots, s)
    prefetch(cx.slots, s + 8)
    prefetch(cx.slots, s + cx.width - 1)


@inlined
def expect_key(cx: Context, slot: int) -> None:
    """Ask for the bytes of a key whose slot is there, if they do not lie in it."""
    s = slot * cx.width
    if cx.slots[s + KEY_ID] >> 32 > KEY_BYTES:
        prefetch(cx.pool, cx.slots[s + KEY] * UNIT)


@inlined
def expect_links(cx: Context, slot: int) -> None:
    """Ask for the keys before and after a slot that is there, among those due at the same instant:
    they are written to if it leaves them."""
    s = slot * cx.width
    prefetch(cx.slots, max(cx.slots[s + PREV], 0) * cx.width + NEXT)
    prefetch(cx.slots, max(cx.slots[s + NEXT], 0) * cx.width + PREV)


@inlined
def expect_newest(cx: Context, slot: int) -> None:
    """Ask for the newest tile of each ring of a slot that is there, and the place of the next."""
    for group in range(cx.groups):
        r = ring_of(cx, slot, group)
        count = cx.slots[r + RING_SPAN] & LOW
        if count > 0:
            stride = cx.stride[group]
            _expect_tile(cx, tile_at(cx, r, stride, count - 1), stride)
            _expect_tile(cx, tile_at(cx, r, stride, count), stride)


@inlined
def expect_ends(cx: Context, slot: int) -> None:
    """Ask for the newest and the oldest tile of each ring of a slot that is there."""
    for group in range(cx.groups):
        r = ring_of(cx, slot, group)
        count = cx.slots[r + RING_SPAN] & LOW
        if count > 0:
            stride = cx.stride[group]
            _expect_tile(cx, tile_at(cx, r, stride, count - 1), stride)
            prefetch(cx.pool, tile_at(cx, r, stride, 0))


@inlined
def _expect_tile(cx: Context, tile: int, stride: int) -> None:
    """Ask for the first and the last line of a tile; most have no other."""
    prefetch(cx.pool, tile)
    prefetch(cx.pool, tile + stride - 1)


@inlined
def expect_rings(cx: Context, slot: int) -> None:
    """Ask for the tiles of a slot that is there; of many, for the newest."""
    for group in range(cx.groups):
        _expect_ring(cx, ring_of(cx, slot, group), cx.stride[group])


@inlined
def expect_row(cx: Context, slot: int) -> None:
    """Ask for what the row of a slot that is there is made of."""
    for group in range(cx.groups):
        r, stride = ring_of(cx, slot, group), cx.stride[group]
        if cx.slots[r + RING_BLOCK] >= 0 and cx.slots[r + RING_BLOCK] & HOLDS:
            _expect_tile(cx, tile_at(cx, r, stride, ring_count(cx, slot, group) - 1), stride)
            _expect_tile(cx, digest_of(cx, r, stride), stride)
            prefetch(cx.pool, tile_at(cx, r, stride, 0))
        else:
            _expect_ring(cx, r, stride)


@inlined
def _expect_ring(cx: Context, r: int, stride: int) -> None:
    block = ring_block(cx, r) * UNIT
    first = cx.slots[r + RING_SPAN] >> 32
    end = first + (cx.slots[r + RING_SPAN] & LOW)
    capacity = cx.slots[r + RING_ROOM] >> 32
    if end > capacity:
        _expect_words(cx, block, block + (end - capacity) * stride)
        end = capacity
    _expect_words(cx, block + first * stride, block + end * stride)


@inlined
def _expect_words(cx: Context, low: int, high: int) -> None:
    """Ask for the last lines of a stretch of the pool."""
    if low < high:
        for word in range(max(low, high - LINES * 8), high, 8):
            prefetch(cx.pool, word)
        prefetch(cx.pool, high - 1)
