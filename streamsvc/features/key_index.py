"""Which slot holds a key: open addressing with linear probing over the key's bytes.

An entry packs 31 bits of the key's 64-bit hash with the slot, so that a probe touches the slot
only for the right key or one in two thousand million others; the bytes decide. Deletion shifts
entries back, so the index never fills with tombstones.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.features.jit import kernel
from streamsvc.features.layout import (
    AS_OF,
    BUCKET,
    CHANGED,
    FAR_PAST,
    FLAGS,
    KEY_BLOCK,
    KEY_LEN,
    KEY_TAG,
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
    State,
)
from streamsvc.features.pool import alloc, class_of, release

__all__ = ["find_key", "forget_key", "insert_key", "refill", "tag_of"]


@kernel
def tag_of(data: U8, start: int, end: int) -> int:
    """31 bits of a 64-bit hash (FNV-1a over words, then MurmurHash3's finaliser)."""
    h = np.uint64(0xCBF29CE484222325) ^ np.uint64(end - start)
    p = start
    while p + 8 <= end:
        word = np.uint64(0)
        for k in range(8):
            word |= np.uint64(data[p + k]) << np.uint64(8 * k)
        h = (h ^ word) * np.uint64(0x9E3779B97F4A7C15)
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


@kernel
def find_key(st: State, tag: int, data: U8, start: int, end: int) -> int:
    """The slot of a key, or -1."""
    mask = len(st.table) - 1
    pool = st.pool.view(np.uint8)
    place = tag & mask
    while True:
        entry = st.table[place]
        if entry == 0:
            return -1
        if entry >> 32 == tag:
            slot = (entry & LOW) - 1
            if st.slots[slot, KEY_LEN] == end - start:
                p = st.slots[slot, KEY_BLOCK] * (UNIT * 8)
                k = 0
                while k < end - start and pool[p + k] == data[start + k]:
                    k += 1
                if k == end - start:
                    return slot
        place = (place + 1) & mask


@kernel
def insert_key(st: State, tag: int, data: U8, start: int, end: int) -> int:
    """A fresh slot for a key that is not there, or -1 if the pool must grow.

    Slots and index must have room (`Storage.reserve`).
    """
    length = end - start
    block = alloc(st, class_of((length + 7) // 8))
    if block < 0:
        return -1
    pool = st.pool.view(np.uint8)
    for k in range(length):
        pool[block * (UNIT * 8) + k] = data[start + k]
    slot = st.meta[SLOT_FREE]
    if slot >= 0:
        st.meta[SLOT_FREE] = st.slots[slot, NEXT]
    else:
        slot = st.meta[SLOT_TOP]
        st.meta[SLOT_TOP] += 1
    row = st.slots[slot]
    row[KEY_BLOCK] = block
    row[KEY_LEN] = length
    row[KEY_TAG] = tag
    row[AS_OF] = FAR_PAST
    row[BUCKET] = -1
    for r in range(RINGS, len(row), RING_WORDS):
        row[r + RING_BLOCK] = -1
        row[r + RING_SPAN] = 0
        row[r + RING_ROOM] = 0
    _place(st.table, tag, slot)
    st.meta[N_KEYS] += 1
    return slot


@kernel
def _place(table: I64, tag: int, slot: int) -> None:
    mask = len(table) - 1
    place = tag & mask
    while table[place] != 0:
        place = (place + 1) & mask
    table[place] = (tag << 32) | (slot + 1)


@kernel
def forget_key(st: State, slot: int) -> None:
    """Evict a key that has no tiles and is not scheduled; its slot and bytes are reused."""
    row = st.slots[slot]
    mask = len(st.table) - 1
    hole = row[KEY_TAG] & mask
    while st.table[hole] & LOW != slot + 1:
        hole = (hole + 1) & mask
    place = hole
    while True:
        place = (place + 1) & mask
        entry = st.table[place]
        if entry == 0:
            break
        # An entry may move back to the hole unless its home lies after the hole.
        if (place - ((entry >> 32) & mask)) & mask >= (place - hole) & mask:
            st.table[hole] = entry
            hole = place
    st.table[hole] = 0
    release(st, row[KEY_BLOCK], class_of((row[KEY_LEN] + 7) // 8))
    if row[FLAGS] & CHANGED:
        row[FLAGS] &= ~CHANGED
        st.meta[N_CHANGED] -= 1
    row[KEY_BLOCK] = -1
    row[NEXT] = st.meta[SLOT_FREE]
    st.meta[SLOT_FREE] = slot
    st.meta[N_KEYS] -= 1


@kernel
def refill(old: I64, new: I64) -> None:
    """Copy every entry of an index into a larger, empty one."""
    for entry in old:
        if entry != 0:
            _place(new, entry >> 32, (entry & LOW) - 1)
