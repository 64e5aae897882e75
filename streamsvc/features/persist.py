"""Tiles out to a commit and back in.

A batch lists keys, and under each key its tiles, newest first. Dropped tiles need no record: the
batch says up to which instant everything due has been emitted, and loading drops what had left by
then, so ageing costs the changelog nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.features.fold import settle
from streamsvc.features.jit import kernel
from streamsvc.features.key_index import find_key, forget_key, insert_key, tag_of
from streamsvc.features.layout import (
    AS_OF,
    FLAGS,
    IN_DIRTY,
    KEY_BLOCK,
    KEY_LEN,
    LOW,
    NEVER,
    RING_ROOM,
    UNIT,
    State,
)
from streamsvc.features.rings import create_tile, find_tile, ring_count, ring_of, tile_at
from streamsvc.features.schedule import reschedule
from streamsvc.features.spec import Program

__all__ = ["Inputs", "Tiles", "load", "measure", "take"]


class Inputs(NamedTuple):
    """A batch to load: k keys, n tiles."""

    keys: U8
    key_start: I64
    key_end: I64
    as_of: I64
    tiles_end: I64
    group: U8
    start: I64
    words: I64
    words_end: I64


class Tiles(NamedTuple):
    """A batch to fill: k keys, n tiles."""

    keys: U8
    key_end: I64
    """Key i ends here and starts where key i - 1 ends; shape (k,)."""
    as_of: I64
    tiles_end: I64
    """Tiles of key i end here and start where those of key i - 1 end; shape (k,)."""
    group: U8
    start: I64
    """Event time at which the tile starts."""
    words: I64
    words_end: I64
    """Words of tile j end here; shape (n,)."""


@kernel
def measure(st: State, pg: Program, slots: I64, everything: bool, sizes: I64) -> None:
    """Count keys, key bytes, tiles and words of the batch that `take` would write."""
    sizes[:] = 0
    for slot in slots:
        if st.slots[slot, KEY_BLOCK] < 0:
            continue
        sizes[0] += 1
        sizes[1] += st.slots[slot, KEY_LEN]
        for group in range(len(pg.hop)):
            n = st.slots[slot, ring_of(group) + RING_ROOM] & LOW
            if everything:
                n = ring_count(st, slot, group)
            sizes[2] += n
            sizes[3] += n * (pg.stride[group] - 1)


@kernel
def take(st: State, pg: Program, slots: I64, everything: bool, out: Tiles) -> None:
    """Write all tiles of these keys, or only those that are dirty, which become clean."""
    pool = st.pool.view(np.uint8)
    key = byte = tile_number = word = 0
    for slot in slots:
        if not everything:
            st.slots[slot, FLAGS] &= ~IN_DIRTY
        if st.slots[slot, KEY_BLOCK] < 0:
            continue
        source = st.slots[slot, KEY_BLOCK] * (UNIT * 8)
        for k in range(st.slots[slot, KEY_LEN]):
            out.keys[byte + k] = pool[source + k]
        byte += st.slots[slot, KEY_LEN]
        out.key_end[key] = byte
        out.as_of[key] = st.slots[slot, AS_OF]
        for group in range(len(pg.hop)):
            r = ring_of(group) + RING_ROOM
            left = ring_count(st, slot, group) if everything else st.slots[slot, r] & LOW
            i = ring_count(st, slot, group)
            while left > 0:
                i -= 1
                tile = tile_at(st, pg, slot, group, i)
                header = st.pool[tile]
                if not everything:
                    if header & 1 == 0:
                        continue
                    st.pool[tile] = header ^ 1
                    st.slots[slot, r] -= 1
                left -= 1
                out.group[tile_number] = group
                out.start[tile_number] = (header >> 1) * pg.hop[group]
                for w in range(1, pg.stride[group]):
                    out.words[word] = st.pool[tile + w]
                    word += 1
                out.words_end[tile_number] = word
                tile_number += 1
        out.tiles_end[key] = tile_number
        key += 1


@kernel
def load(st: State, pg: Program, batch: Inputs, aged: int, low: int, high: int) -> int:
    """Put keys [low, high) of a batch in place of what is there. Returns where to resume."""
    for key in range(low, high):
        start = batch.key_start[key]
        end = batch.key_end[key]
        tag = tag_of(batch.keys, start, end)
        slot = find_key(st, tag, batch.keys, start, end)
        if slot < 0:
            slot = insert_key(st, tag, batch.keys, start, end)
            if slot < 0:
                return key
        st.slots[slot, AS_OF] = max(st.slots[slot, AS_OF], batch.as_of[key])
        for j in range(batch.tiles_end[key - 1] if key > 0 else 0, batch.tiles_end[key]):
            group = batch.group[j]
            q = batch.start[j] // pg.hop[group]
            tile = find_tile(st, pg, slot, group, q)
            if tile < 0:
                tile = create_tile(st, pg, slot, group, q)
                if tile < 0:
                    return key
            width = pg.stride[group] - 1
            for w in range(width):
                st.pool[tile + 1 + w] = batch.words[batch.words_end[j] - width + w]
        # What had left by as_of is in the row that was written with it.
        due = settle(st, pg, slot, max(st.slots[slot, AS_OF], aged))
        reschedule(st, slot, due)
        if due == NEVER:
            forget_key(st, slot)
    return high
