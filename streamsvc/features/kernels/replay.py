"""History: steps sorted by key and time, one key's tiles at a time."""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, U8, Bools
from streamsvc.features.kernels.accumulate import accumulate, bind_input
from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.extras import put_extras
from streamsvc.features.kernels.fold import fold, settle
from streamsvc.features.kernels.fold_extras import fold_extras
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.key_index import find_key, insert_key, tag_of
from streamsvc.features.kernels.layout import KEY_ID, NEED_TEXT, NEVER, SLOT_TOP, State
from streamsvc.features.kernels.output import bind_output
from streamsvc.features.kernels.pointers import pointer
from streamsvc.features.kernels.program import Program
from streamsvc.features.kernels.rings import create_tile, drop_oldest, find_tile, ring_count

__all__ = ["forget_before", "intern_keys", "look_up", "replay"]


@kernel
def intern_keys(
    st: State,
    pg: Program,
    data: U8,
    start: I64,
    end: I64,
    valid: Bools,
    where: I64,
    low: int,
    high: int,
) -> int:
    """Fill `where` with the slot of every key, made if need be. Returns where to resume."""
    cx = bind(st, pg)
    raw = pointer(data)
    for i in range(low, high):
        if not valid[i]:
            continue
        tag = tag_of(raw, start[i], end[i])
        slot = find_key(cx, tag, raw, start[i], end[i])
        if slot < 0:
            slot = insert_key(cx, tag, raw, start[i], end[i])
            if slot < 0:
                return i
        where[i] = slot
    return high


@kernel
def look_up(
    st: State, pg: Program, data: U8, start: I64, end: I64, valid: Bools, where: I64
) -> None:
    """Fill `where` with the slot of every key, -1 where it is not there."""
    cx = bind(st, pg)
    raw = pointer(data)
    for i in range(len(start)):
        where[i] = -1
        if valid[i]:
            where[i] = find_key(cx, tag_of(raw, start[i], end[i]), raw, start[i], end[i])


@kernel
def replay(
    st: State,
    pg: Program,
    slots: I64,
    is_query: Bools,
    source: I64,
    event_time: I64,
    known: I64,
    partition: I64,
    offset: I64,
    words: I64,
    valid: U8,
    texts: U8,
    query_time: I64,
    horizon: int,
    out: I64,
    out_valid: U8,
    out_texts: U8,
    low: int,
    high: int,
) -> int:
    """Steps [low, high), sorted by key and time; step i is row source[i] of events or queries.

    The time of an event is that at which it is known, which is never before its event time. Once a
    key is through, it keeps what is inside a window at `horizon`; nothing, if that is NEVER.
    Returns where to resume, with a larger pool or, if `meta[NEED_TEXT]` > 0, more room for text.
    """
    cx = bind(st, pg)
    rows = bind_input(event_time, partition, offset, words, valid, texts)
    target = bind_output(out, out_valid, out_texts)
    cx.meta[NEED_TEXT] = 0
    tiles = np.empty(cx.groups, np.int64)
    for i in range(low, high):
        slot = slots[i]
        row = source[i]
        if i > 0 and slots[i - 1] != slot:
            _leave(cx, slots[i - 1], horizon)
        if is_query[i]:
            settle(cx, slot, query_time[row])
            fold(cx, slot, target, row)
            if cx.n_extras > 0 and not fold_extras(cx, slot, target, row):
                return i
            continue
        for group in range(cx.groups):
            hop = cx.hop[group]
            q = event_time[row] // hop
            tiles[group] = -1
            if (q + 1) * hop + cx.window[cx.first_window[group + 1] - 1] <= known[row]:
                continue  # it had left every window before anybody knew of it
            tile = find_tile(cx, slot, group, q)
            if tile < 0:
                settle(cx, slot, known[row])
                tile = create_tile(cx, slot, group, q)
                if tile < 0:
                    return i
            tiles[group] = tile
        if cx.n_extras > 0 and not put_extras(cx, tiles, rows, row):
            return i
        for group in range(cx.groups):
            if tiles[group] >= 0:
                accumulate(cx, group, tiles[group], rows, row)
    return high


@kernel
def forget_before(st: State, pg: Program, horizon: int) -> None:
    """Drop every key's tiles that are outside every window at an instant."""
    cx = bind(st, pg)
    for slot in range(cx.meta[SLOT_TOP]):
        if cx.slots[slot * cx.width + KEY_ID] >= 0:
            _leave(cx, slot, horizon)


@inlined
def _leave(cx: Context, slot: int, horizon: int) -> None:
    if horizon != NEVER:
        settle(cx, slot, horizon)
        return
    for group in range(cx.groups):
        drop_oldest(cx, slot, group, ring_count(cx, slot, group))
