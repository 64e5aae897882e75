"""Tiles of a commit back in: what `kernels.persist` has taken out."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.features.kernels.ahead import (
    expect_ends,
    expect_key,
    expect_links,
    expect_slot,
    likely_slot,
)
from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.fold import settle
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.key_index import find_key, forget_key, insert_key, tag_of
from streamsvc.features.kernels.layout import AS_OF, LOW, NEVER, RING_ROOM, RING_SPAN, State
from streamsvc.features.kernels.payload import drop_payloads
from streamsvc.features.kernels.pointers import pointer, prefetch
from streamsvc.features.kernels.program import Program
from streamsvc.features.kernels.rings import ensure_room, ensure_tile, ring_of, tile_at
from streamsvc.features.kernels.schedule import due_of, reschedule
from streamsvc.features.kernels.serial import read_payloads

__all__ = ["Inputs", "load", "reckon"]

AHEAD = 8
"""Keys between asking for a cache line and reading it."""


class Inputs(NamedTuple):
    """A batch to load: k keys, n tiles."""

    keys: U8
    key_start: I64
    key_end: I64
    as_of: I64
    tiles_end: I64
    group: I64
    start: I64
    words: I64
    words_end: I64
    payload: I64
    """Words of tile j that are payload; empty for a program without extras."""


@kernel
def reckon(
    pg: Program, tiles: I64, groups: U8, payload: I64, n_words: int, out: tuple[I64, I64, I64]
) -> bool:
    """Fill `tiles_end`, `group` and `words_end` of the inputs.

    False if the batch is not just as long as its keys and tiles say, or names groups that are not
    there.
    """
    tiles_end, group, words_end = out
    tile = word = 0
    for key in range(len(tiles)):
        if tiles[key] < 0 or tiles[key] > len(groups) - tile:
            return False
        tile += tiles[key]
        tiles_end[key] = tile
    if tile != len(groups):
        return False
    for j in range(len(groups)):
        g = groups[j]
        if g >= len(pg.stride):
            return False
        word += pg.stride[g] - 1
        if len(payload) > 0:
            if payload[j] < 0 or payload[j] > n_words - word:
                return False
            word += payload[j]
        group[j] = g
        words_end[j] = word
    return word == n_words


# One pass over what a key touches, as in `update`.
@kernel
def load(  # noqa: PLR0912
    st: State, pg: Program, batch: Inputs, aged: int, low: int, high: int
) -> int:
    """Put keys [low, high) of a batch in place of what is there. Returns where to resume."""
    cx = bind(st, pg)
    raw, words, words_end = pointer(batch.keys), pointer(batch.words), pointer(batch.words_end)
    groups, starts, tiles_end = pointer(batch.group), pointer(batch.start), pointer(batch.tiles_end)
    key_start, key_end = pointer(batch.key_start), pointer(batch.key_end)
    tags = np.empty(high - low, np.int64)
    for key in range(low, high):
        tags[key - low] = tag_of(raw, key_start[key], key_end[key])
    # The last tile that was loaded, per group: most need no division.
    number = np.zeros(cx.groups, np.int64)
    begin = np.zeros(cx.groups, np.int64)
    for key in range(low, high):
        start, end = key_start[key], key_end[key]
        _expect(cx, tags, key - low)
        tag = tags[key - low]
        slot = find_key(cx, tag, raw, start, end)
        if slot < 0:
            slot = insert_key(cx, tag, raw, start, end)
            if slot < 0:
                return key
        s = slot * cx.width
        cx.slots[s + AS_OF] = max(cx.slots[s + AS_OF], batch.as_of[key])
        place, of_group = 0, -1
        last = tiles_end[key]
        for j in range(tiles_end[key - 1] if key > 0 else 0, last):
            group = groups[j]
            stride = cx.stride[group]
            r = ring_of(cx, slot, group)
            if starts[j] != begin[group]:
                begin[group] = starts[j]
                number[group] = begin[group] // cx.hop[group]
            if cx.slots[r + RING_ROOM] >> 32 == 0 and not _make_room(cx, r, groups, j, last):
                return key
            # The newest comes first, the one before it next.
            after = place if group == of_group else cx.slots[r + RING_SPAN] & LOW
            place = ensure_tile(cx, slot, group, number[group], max(after - 1, 0))
            if place < 0:
                return key
            of_group = group
            tile = tile_at(cx, r, stride, place)
            width = stride - 1
            base = words_end[j] - width - (batch.payload[j] if cx.n_extras > 0 else 0)
            if cx.n_extras > 0:
                drop_payloads(cx, group, tile)
            for w in range(width):
                cx.pool[tile + 1 + w] = words[base + w]
            if cx.n_extras > 0 and not read_payloads(cx, group, tile, words, base, base + width):
                return key
        # What had left by as_of is in the row that was written with it.
        due = settle(cx, slot, max(cx.slots[s + AS_OF], aged))
        if due != due_of(cx, slot):
            reschedule(cx, slot, due)
        if due == NEVER:
            forget_key(cx, slot)
    return high


@inlined
def _expect(cx: Context, tags: I64, i: int) -> None:
    """Ask for what the keys after key i will be looked for in, each step some keys before the next.

    Not for the places of a whole slice in the index beforehand: most would have left the cache
    again by their turn.
    """
    if i + 4 * AHEAD < len(tags):
        prefetch(cx.table, tags[i + 4 * AHEAD] & cx.table_mask)
    if i + 2 * AHEAD < len(tags):
        expect_slot(cx, max(likely_slot(cx, tags[i + 2 * AHEAD]), 0))
    if i + AHEAD < len(tags):
        expected = max(likely_slot(cx, tags[i + AHEAD]), 0)
        expect_key(cx, expected)
        expect_ends(cx, expected)
        expect_links(cx, expected)


@inlined
def _make_room(cx: Context, r: int, groups: I64, low: int, high: int) -> bool:
    """Room in an empty ring for all of a key's tiles [low, high) that are of the same group as the
    first: a ring that grows tile by tile moves again and again. False if the pool must grow first.
    """
    end = low + 1
    while end < high and groups[end] == groups[low]:
        end += 1
    return ensure_room(cx, r, cx.stride[groups[low]], end - low)
