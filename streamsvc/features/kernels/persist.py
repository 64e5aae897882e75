"""Tiles out to a commit; `kernels.load` puts them back in.

A batch lists keys, and under each key its tiles, newest first. Dropped tiles need no record: the
batch says up to which instant everything due has been emitted, and loading drops what had left by
then, so ageing costs the changelog nothing. Payloads follow their tile (`kernels.serial`).
"""

from __future__ import annotations

from typing import NamedTuple

from streamsvc.columns import I64, U8
from streamsvc.features.kernels.ahead import expect_key, expect_newest, expect_rings, expect_slot
from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.key_index import key_length, key_place
from streamsvc.features.kernels.layout import (
    AS_OF,
    FLAGS,
    IN_DIRTY,
    KEY_ID,
    LOW,
    RING_ROOM,
    RING_SPAN,
    SLOT_TOP,
    State,
)
from streamsvc.features.kernels.pointers import pointer
from streamsvc.features.kernels.program import Program
from streamsvc.features.kernels.rings import ring_count, ring_of, tile_at
from streamsvc.features.kernels.serial import payload_words, write_payloads

__all__ = ["Tiles", "measure", "reach", "take"]

AHEAD = 8
"""Keys between asking for a cache line and reading it."""
FREE_SLOTS = 65_536
"""Free slots that one call of `reach` passes over: about a millisecond."""


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
    payload: I64
    """Words of tile j that are payload; shape (n,), or (0,) for a program without extras."""


@kernel
def measure(st: State, pg: Program, slots: I64, everything: bool, sizes: I64) -> None:
    """Count keys, key bytes, tiles and words of the batch that `take` would write."""
    cx = bind(st, pg)
    keys = key_bytes = tiles = words = 0
    for i in range(len(slots)):
        slot = slots[i]
        if i + AHEAD < len(slots):
            expect_slot(cx, slots[i + AHEAD])
        if cx.slots[slot * cx.width + KEY_ID] < 0:
            continue
        keys += 1
        key_bytes += key_length(cx, slot)
        for group in range(cx.groups):
            n = _wanted(cx, slot, group, everything)
            tiles += n
            words += n * (cx.stride[group] - 1)
            if cx.first_extra[group] < cx.first_extra[group + 1]:
                words += _payloads(cx, slot, group, n, everything)
    sizes[0], sizes[1], sizes[2], sizes[3] = keys, key_bytes, tiles, words


@kernel
def reach(st: State, pg: Program, low: int, words: int) -> int:
    """Where to stop, going on from slot `low`, to have passed keys with so many words of tiles."""
    cx = bind(st, pg)
    free = 0
    slot = low
    while slot < cx.meta[SLOT_TOP] and words > 0 and free < FREE_SLOTS:
        if cx.slots[slot * cx.width + KEY_ID] < 0:
            free += 1
        else:
            for group in range(cx.groups):
                n = _wanted(cx, slot, group, True)
                words -= n * (cx.stride[group] - 1)
                if cx.first_extra[group] < cx.first_extra[group + 1]:
                    words -= _payloads(cx, slot, group, n, True)
        slot += 1
    return slot


@kernel
def _wanted(cx: Context, slot: int, group: int, everything: bool) -> int:
    r = ring_of(cx, slot, group)
    return cx.slots[r + (RING_SPAN if everything else RING_ROOM)] & LOW


@kernel
def _payloads(cx: Context, slot: int, group: int, left: int, everything: bool) -> int:
    """Words of payload of a key's `left` wanted tiles."""
    r, stride = ring_of(cx, slot, group), cx.stride[group]
    words = 0
    i = ring_count(cx, slot, group)
    while left > 0:
        i -= 1
        tile = tile_at(cx, r, stride, i)
        if everything or cx.pool[tile] & 1 == 1:
            left -= 1
            words += payload_words(cx, group, tile)
    return words


@kernel
def take(st: State, pg: Program, slots: I64, everything: bool, out: Tiles) -> None:
    """Write all tiles of these keys, or only those that are dirty, which become clean."""
    cx = bind(st, pg)
    keys, words = pointer(out.keys), pointer(out.words)
    key = byte = tile_number = word = 0
    for n in range(len(slots)):
        slot = slots[n]
        if n + 2 * AHEAD < len(slots):
            expect_slot(cx, slots[n + 2 * AHEAD])
        if n + AHEAD < len(slots):
            _expect_tiles(cx, slots[n + AHEAD], everything)
        s = slot * cx.width
        if not everything:
            cx.slots[s + FLAGS] &= ~IN_DIRTY
        if cx.slots[s + KEY_ID] < 0:
            continue
        source, at = key_place(cx, slot)
        for k in range(key_length(cx, slot)):
            keys[byte + k] = source[at + k]
        byte += key_length(cx, slot)
        out.key_end[key] = byte
        out.as_of[key] = cx.slots[s + AS_OF]
        for group in range(cx.groups):
            r = ring_of(cx, slot, group)
            stride = cx.stride[group]
            left = _wanted(cx, slot, group, everything)
            i = ring_count(cx, slot, group)
            while left > 0:
                i -= 1
                tile = tile_at(cx, r, stride, i)
                header = cx.pool[tile]
                if not everything:
                    if header & 1 == 0:
                        continue
                    cx.pool[tile] = header ^ 1
                    cx.slots[r + RING_ROOM] -= 1
                left -= 1
                out.group[tile_number] = group
                out.start[tile_number] = (header >> 1) * cx.hop[group]
                base = word
                for w in range(1, stride):
                    words[word] = cx.pool[tile + w]
                    word += 1
                if cx.n_extras > 0:
                    word = write_payloads(cx, group, tile, words, base, word)
                    out.payload[tile_number] = word - base - (stride - 1)
                out.words_end[tile_number] = word
                tile_number += 1
        out.tiles_end[key] = tile_number
        key += 1


@inlined
def _expect_tiles(cx: Context, slot: int, everything: bool) -> None:
    expect_key(cx, slot)
    if everything:
        expect_rings(cx, slot)
    else:
        expect_newest(cx, slot)
