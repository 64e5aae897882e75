"""Which slot holds a key: open addressing with linear probing over the key's bytes.

An entry packs 31 bits of the key's 64-bit hash with the slot, so that a probe touches the slot
only for the right key or one in two thousand million others; the bytes decide. Deletion shifts
entries back, so the index never fills with tombstones.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import (
    AS_OF,
    BUCKET,
    CHANGED,
    FAR_PAST,
    FLAGS,
    KEY,
    KEY_BYTES,
    KEY_ID,
    LOW,
    N_CHANGED,
    N_KEYS,
    NEXT,
    RING_BLOCK,
    RING_ROOM,
    RING_SPAN,
    RING_WORDS,
    RINGS,
    SLOT_FREE,
    SLOT_TOP,
    UNIT,
)
from streamsvc.features.kernels.pointers import pointer, word_at
from streamsvc.features.kernels.pool import alloc, class_of, release

__all__ = ["find_key", "forget_key", "insert_key", "key_length", "key_place", "refill", "tag_of"]


@inlined
def tag_of(data: U8, start: int, end: int) -> int:
    """31 bits of a 64-bit hash (FNV-1a over words, then MurmurHash3's finaliser)."""
    h = np.uint64(0xCBF29CE484222325) ^ np.uint64(end - start)
    p = start
    while p + 8 <= end:
        h = (h ^ word_at(data, p)) * np.uint64(0x9E3779B97F4A7C15)
        h ^= h >> np.uint64(32)
        p += 8
    while p < end:
        h = (h ^ np.uint64(data[p])) * np.uint64(0x100000001B3)
        p += 1
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xFF51AFD7ED558CCD)
    h ^= h >> np.uint64(33)
    h *= np.uint64(0xC4CEB9FE1A85EC53)
    return np.int64(h >> np.uint64(33))  # type: ignore[return-value]


@inlined
def key_length(cx: Context, slot: int) -> int:
    """Bytes of a slot's key."""
    return cx.slots[slot * cx.width + KEY_ID] >> 32


@inlined
def key_place(cx: Context, slot: int) -> tuple[U8, int]:
    """Where the bytes of a slot's key lie: in what, and from where on."""
    key = slot * cx.width + KEY
    if key_length(cx, slot) > KEY_BYTES:
        return cx.bytes, cx.slots[key] * (UNIT * 8)
    return cx.slot_bytes, key * 8


@inlined
def find_key(cx: Context, tag: int, data: U8, start: int, end: int) -> int:
    """The slot of a key, or -1."""
    mask = cx.table_mask
    place = tag & mask
    while True:
        entry = cx.table[place]
        if entry == 0:
            return -1
        if entry >> 32 == tag:
            slot = (entry & LOW) - 1
            length = end - start
            if key_length(cx, slot) == length:
                found, at = key_place(cx, slot)
                if _equal(found, at, data, start, length):
                    return slot
        place = (place + 1) & mask


@inlined
def _equal(a: U8, i: int, b: U8, j: int, length: int) -> bool:
    k = 0
    while k + 8 <= length:
        if word_at(a, i + k) != word_at(b, j + k):
            return False
        k += 8
    while k < length:
        if a[i + k] != b[j + k]:
            return False
        k += 1
    return True


@kernel
def insert_key(cx: Context, tag: int, data: U8, start: int, end: int) -> int:
    """A fresh slot for a key that is not there, or -1 if the pool must grow.

    Slots and index must have room (`Storage.reserve`).
    """
    length = end - start
    block = 0
    if length > KEY_BYTES:
        block = alloc(cx, class_of((length + 7) // 8))
        if block < 0:
            return -1
    slot = cx.meta[SLOT_FREE]
    if slot >= 0:
        cx.meta[SLOT_FREE] = cx.slots[slot * cx.width + NEXT]
    else:
        slot = cx.meta[SLOT_TOP]
        cx.meta[SLOT_TOP] += 1
    s = slot * cx.width
    cx.slots[s + KEY_ID] = (length << 32) | tag
    cx.slots[s + KEY] = block
    found, at = key_place(cx, slot)
    for k in range(length):
        found[at + k] = data[start + k]
    cx.slots[s + AS_OF] = FAR_PAST
    cx.slots[s + BUCKET] = -1
    for r in range(s + RINGS, s + cx.width, RING_WORDS):
        cx.slots[r + RING_BLOCK] = -1
        cx.slots[r + RING_SPAN] = 0
        cx.slots[r + RING_ROOM] = 0
    _place(cx.table, cx.table_mask, tag, slot)
    cx.meta[N_KEYS] += 1
    return slot


@kernel
def _place(table: I64, mask: int, tag: int, slot: int) -> None:
    place = tag & mask
    while table[place] != 0:
        place = (place + 1) & mask
    table[place] = (tag << 32) | (slot + 1)


@kernel
def forget_key(cx: Context, slot: int) -> None:
    """Evict a key that has no tiles and is not scheduled; its slot and bytes are reused."""
    s = slot * cx.width
    mask = cx.table_mask
    hole = cx.slots[s + KEY_ID] & mask
    while cx.table[hole] & LOW != slot + 1:
        hole = (hole + 1) & mask
    place = hole
    while True:
        place = (place + 1) & mask
        entry = cx.table[place]
        if entry == 0:
            break
        # An entry may move back to the hole unless its home lies after the hole.
        if (place - ((entry >> 32) & mask)) & mask >= (place - hole) & mask:
            cx.table[hole] = entry
            hole = place
    cx.table[hole] = 0
    length = key_length(cx, slot)
    if length > KEY_BYTES:
        release(cx, cx.slots[s + KEY], class_of((length + 7) // 8))
    if cx.slots[s + FLAGS] & CHANGED:
        cx.slots[s + FLAGS] &= ~CHANGED
        cx.meta[N_CHANGED] -= 1
    cx.slots[s + KEY_ID] = -1
    cx.slots[s + NEXT] = cx.meta[SLOT_FREE]
    cx.meta[SLOT_FREE] = slot
    cx.meta[N_KEYS] -= 1


@kernel
def refill(old: I64, new: I64) -> None:
    """Copy every entry of an index into a larger, empty one."""
    for i in range(len(old)):
        if old[i] != 0:
            _place(pointer(new), len(new) - 1, old[i] >> 32, (old[i] & LOW) - 1)
