"""Events into tiles, in two passes over a slice of rows.

`locate` finds or makes each row's slot and sorts out expired rows; `update` adds the values. Both
stop when the pool is full and return the row to resume at, with nothing of that row counted yet.
The clock of a row is the greatest event time up to it (or what `advance` set), so the result does
not depend on how the rows were cut into chunks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.features.kernels.accumulate import accumulate, bind_input
from streamsvc.features.kernels.ahead import expect_key, expect_newest, expect_slot, likely_slot
from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.extras import put_extras
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.key_index import find_key, insert_key, tag_of
from streamsvc.features.kernels.layout import (
    AS_OF,
    CHANGED,
    EXPIRED,
    FAR_PAST,
    FLAGS,
    IN_QUEUE,
    KEY_ID,
    N_CHANGED,
    QUEUE_HEAD,
    QUEUE_LEN,
    SLOT_TOP,
    State,
)
from streamsvc.features.kernels.pointers import pointer, prefetch
from streamsvc.features.kernels.program import Program
from streamsvc.features.kernels.rings import (
    create_tile,
    find_tile,
    mark_dirty,
    note_dirty,
)
from streamsvc.features.kernels.schedule import due_of, reschedule

__all__ = ["Batch", "enqueue_all", "locate", "update"]

AHEAD = 8
"""Rows between asking for a cache line and reading it."""


class Batch(NamedTuple):
    """n rows that are located: what came in, their clocks, and their slots."""

    event_time: I64
    partition: I64
    offset: I64
    words: I64
    """(columns, n), as `valid`."""
    valid: U8
    texts: U8
    clocks: I64
    where: I64


@kernel
def _newest_exit(cx: Context, time: int, clock: int) -> int:
    """The newest instant <= clock at which an event of that time left a window; or FAR_PAST."""
    newest = FAR_PAST
    for group in range(cx.groups):
        end = (time // cx.hop[group] + 1) * cx.hop[group]
        for w in range(cx.first_window[group], cx.first_window[group + 1]):
            if end + cx.window[w] <= clock:
                newest = max(newest, end + cx.window[w])
    return newest


@kernel
def _is_expired(cx: Context, time: int, clock: int) -> bool:
    """Whether an event of that time is outside every window at the clock."""
    if time + cx.longest >= clock:
        return False
    for group in range(cx.groups):
        end = (time // cx.hop[group] + 1) * cx.hop[group]
        if end + cx.window[cx.first_window[group + 1] - 1] > clock:
            return False
    return True


@kernel
def _newest_boundary(cx: Context, clock: int) -> int:
    """The newest instant <= clock at which any tile can have left any window."""
    newest = FAR_PAST
    for group in range(cx.groups):
        hop = cx.hop[group]
        for w in range(cx.first_window[group], cx.first_window[group + 1]):
            newest = max(newest, (clock - cx.window[w]) // hop * hop + cx.window[w])
    return newest


@kernel
def locate(
    st: State,
    pg: Program,
    data: U8,
    start: I64,
    end: I64,
    event_time: I64,
    clocks: I64,
    where: I64,
    low: int,
    high: int,
) -> int:
    """Fill `where[low:high]` with slots, -1 for an expired row. Returns where to resume."""
    cx = bind(st, pg)
    raw = pointer(data)
    tags = np.empty(high - low, np.int64)
    for i in range(low, high):
        tags[i - low] = tag_of(raw, start[i], end[i])
        prefetch(cx.table, tags[i - low] & cx.table_mask)
    for i in range(low, high):
        time = event_time[i]
        clock = clocks[i]
        if i + 2 * AHEAD < high:
            expect_slot(cx, max(likely_slot(cx, tags[i + 2 * AHEAD - low]), 0))
        if i + AHEAD < high:
            expect_key(cx, max(likely_slot(cx, tags[i + AHEAD - low]), 0))
        tag = tags[i - low]
        slot = find_key(cx, tag, raw, start[i], end[i])
        if _is_expired(cx, time, clock):
            cx.meta[EXPIRED] += 1
            where[i] = -1
            exit_time = _newest_exit(cx, time, clock)
            if slot >= 0 and cx.slots[slot * cx.width + AS_OF] < exit_time:
                # The row stands from that exit on only: before it, this event counted.
                cx.slots[slot * cx.width + AS_OF] = exit_time
                note_dirty(cx, slot)
                if due_of(cx, slot) <= exit_time:
                    # A restored state takes it that a row has let go what had left by `as_of`.
                    # This one has not yet: it is written before what is noted here.
                    _enqueue(cx, slot)
            continue
        if slot < 0:
            slot = insert_key(cx, tag, raw, start[i], end[i])
            if slot < 0:
                return i
            if time < clock:
                # What this key had before it was last evicted is forgotten, but all of it had
                # left by the newest boundary: the row is only claimed from there on.
                boundary = _newest_boundary(cx, clock)
                if time < boundary:
                    cx.slots[slot * cx.width + AS_OF] = boundary
        where[i] = slot
    return high


# One pass over what a row touches: cut up, its tiles would go through memory.
@kernel
def update(  # noqa: PLR0912
    st: State,
    pg: Program,
    batch: Batch,
    low: int,
    high: int,
) -> int:
    """Add rows [low, high) to their tiles. Returns where to resume."""
    cx = bind(st, pg)
    event_time, clocks, where = batch.event_time, batch.clocks, batch.where
    rows = bind_input(
        event_time, batch.partition, batch.offset, batch.words, batch.valid, batch.texts
    )
    groups = cx.groups
    tiles = np.empty(groups, np.int64)
    # The tile that held the last row, per group: most rows need no division.
    number = np.zeros(groups, np.int64)
    begin = np.zeros(groups, np.int64)
    for i in range(low, high):
        slot = where[i]
        if slot < 0:
            continue
        if i + 2 * AHEAD < high and where[i + 2 * AHEAD] >= 0:
            expect_slot(cx, where[i + 2 * AHEAD])
        if i + AHEAD < high and where[i + AHEAD] >= 0:
            expect_newest(cx, where[i + AHEAD])
        time = event_time[i]
        clock = clocks[i]
        for group in range(groups):
            hop = cx.hop[group]
            if time < begin[group] or time >= begin[group] + hop or i == low:
                number[group] = time // hop
                begin[group] = number[group] * hop
            tiles[group] = -1
            end = begin[group] + hop
            if end + cx.window[cx.first_window[group + 1] - 1] <= clock:
                continue
            tile = find_tile(cx, slot, group, number[group])
            if tile < 0:
                tile = create_tile(cx, slot, group, number[group])
                if tile < 0:
                    return i
                _schedule(cx, slot, group, end, clock)
            tiles[group] = tile
        if cx.n_extras > 0 and not put_extras(cx, tiles, rows, i):
            return i
        for group in range(groups):
            if tiles[group] >= 0:
                mark_dirty(cx, slot, group, tiles[group])
                accumulate(cx, group, tiles[group], rows, i)
        as_of = max(cx.slots[slot * cx.width + AS_OF], time)
        if time + cx.shortest < clock:
            as_of = max(as_of, _newest_exit(cx, time, clock))
        cx.slots[slot * cx.width + AS_OF] = as_of
        _enqueue(cx, slot)
    return high


@kernel
def _schedule(cx: Context, slot: int, group: int, end: int, clock: int) -> None:
    """Let the key fall due when the new tile first leaves a window, if that comes first."""
    for w in range(cx.first_window[group], cx.first_window[group + 1]):
        if end + cx.window[w] > clock:
            if end + cx.window[w] < due_of(cx, slot):
                reschedule(cx, slot, end + cx.window[w])
            return


@inlined
def _enqueue(cx: Context, slot: int) -> None:
    """Mark a key as changed."""
    flags = cx.slots[slot * cx.width + FLAGS]
    if flags & CHANGED == 0:
        cx.meta[N_CHANGED] += 1
        if flags & IN_QUEUE == 0:
            place = cx.meta[QUEUE_HEAD] + cx.meta[QUEUE_LEN]
            if place >= cx.queue_size:
                place -= cx.queue_size
            cx.queue[place] = slot
            cx.meta[QUEUE_LEN] += 1
        cx.slots[slot * cx.width + FLAGS] = flags | CHANGED | IN_QUEUE


@kernel
def enqueue_all(st: State, pg: Program) -> None:
    """Mark every key as changed."""
    cx = bind(st, pg)
    for slot in range(cx.meta[SLOT_TOP]):
        if cx.slots[slot * cx.width + KEY_ID] >= 0:
            _enqueue(cx, slot)
