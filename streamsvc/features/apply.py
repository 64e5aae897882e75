"""Events into tiles, in two passes over a slice of rows.

`locate` finds or makes each row's slot and sorts out expired rows; `update` adds the values. Both
stop when the pool is full and return the row to resume at, with nothing of that row counted yet.
The clock of a row is the greatest event time up to it (or what `advance` set), so the result does
not depend on how the rows were cut into chunks.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, U8, Bools
from streamsvc.features.accumulate import accumulate
from streamsvc.features.jit import kernel
from streamsvc.features.key_index import find_key, insert_key, tag_of
from streamsvc.features.layout import (
    AS_OF,
    CHANGED,
    EXPIRED,
    FAR_PAST,
    FLAGS,
    IN_QUEUE,
    KEY_BLOCK,
    N_CHANGED,
    QUEUE_HEAD,
    QUEUE_LEN,
    SLOT_TOP,
    State,
)
from streamsvc.features.rings import create_tile, find_tile, mark_dirty, note_dirty
from streamsvc.features.schedule import due_of, reschedule
from streamsvc.features.spec import Program

__all__ = ["enqueue_all", "locate", "update"]


@kernel
def _newest_exit(pg: Program, time: int, clock: int) -> int:
    """The newest instant <= clock at which an event of that time left a window; or FAR_PAST."""
    newest = FAR_PAST
    for group in range(len(pg.hop)):
        end = (time // pg.hop[group] + 1) * pg.hop[group]
        for w in range(pg.first_window[group], pg.first_window[group + 1]):
            if end + pg.window[w] <= clock:
                newest = max(newest, end + pg.window[w])
    return newest


@kernel
def _is_expired(pg: Program, time: int, clock: int) -> bool:
    """Whether an event of that time is outside every window at the clock."""
    if time + pg.span[1] >= clock:
        return False
    for group in range(len(pg.hop)):
        end = (time // pg.hop[group] + 1) * pg.hop[group]
        if end + pg.window[pg.first_window[group + 1] - 1] > clock:
            return False
    return True


@kernel
def _newest_boundary(pg: Program, clock: int) -> int:
    """The newest instant <= clock at which any tile can have left any window."""
    newest = FAR_PAST
    for group in range(len(pg.hop)):
        hop = pg.hop[group]
        for w in range(pg.first_window[group], pg.first_window[group + 1]):
            newest = max(newest, (clock - pg.window[w]) // hop * hop + pg.window[w])
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
    for i in range(low, high):
        time = event_time[i]
        clock = clocks[i]
        tag = tag_of(data, start[i], end[i])
        slot = find_key(st, tag, data, start[i], end[i])
        if _is_expired(pg, time, clock):
            st.meta[EXPIRED] += 1
            where[i] = -1
            exit_time = _newest_exit(pg, time, clock)
            if slot >= 0 and st.slots[slot, AS_OF] < exit_time:
                # The row stands from that exit on only: before it, this event counted.
                st.slots[slot, AS_OF] = exit_time
                note_dirty(st, slot)
            continue
        if slot < 0:
            slot = insert_key(st, tag, data, start[i], end[i])
            if slot < 0:
                return i
            if time < clock:
                # What this key had before it was last evicted is forgotten, but all of it had
                # left by the newest boundary: the row is only claimed from there on.
                boundary = _newest_boundary(pg, clock)
                if time < boundary:
                    st.slots[slot, AS_OF] = boundary
        where[i] = slot
    return high


@kernel
def update(
    st: State,
    pg: Program,
    event_time: I64,
    partition: I64,
    offset: I64,
    words: I64,
    valid: Bools,
    clocks: I64,
    where: I64,
    low: int,
    high: int,
) -> int:
    """Add rows [low, high) to their tiles. Returns where to resume."""
    groups = len(pg.hop)
    tiles = np.empty(groups, np.int64)
    # The tile that held the last row, per group: most rows need no division.
    number = np.zeros(groups, np.int64)
    begin = np.zeros(groups, np.int64)
    for i in range(low, high):
        slot = where[i]
        if slot < 0:
            continue
        time = event_time[i]
        clock = clocks[i]
        for group in range(groups):
            hop = pg.hop[group]
            if time < begin[group] or time >= begin[group] + hop or i == low:
                number[group] = time // hop
                begin[group] = number[group] * hop
            tiles[group] = -1
            end = begin[group] + hop
            if end + pg.window[pg.first_window[group + 1] - 1] <= clock:
                continue
            tile = find_tile(st, pg, slot, group, number[group])
            if tile < 0:
                tile = create_tile(st, pg, slot, group, number[group])
                if tile < 0:
                    return i
                _schedule(st, pg, slot, group, end, clock)
            tiles[group] = tile
        for group in range(groups):
            if tiles[group] >= 0:
                mark_dirty(st, slot, group, tiles[group])
                accumulate(
                    st.pool, pg, group, tiles[group], words, valid, i, time, partition[i], offset[i]
                )
        as_of = max(st.slots[slot, AS_OF], time)
        if time + pg.span[0] < clock:
            as_of = max(as_of, _newest_exit(pg, time, clock))
        st.slots[slot, AS_OF] = as_of
        _enqueue(st, slot)
    return high


@kernel
def _schedule(st: State, pg: Program, slot: int, group: int, end: int, clock: int) -> None:
    """Let the key fall due when the new tile first leaves a window, if that comes first."""
    for w in range(pg.first_window[group], pg.first_window[group + 1]):
        if end + pg.window[w] > clock:
            if end + pg.window[w] < due_of(st, slot):
                reschedule(st, slot, end + pg.window[w])
            return


@kernel
def _enqueue(st: State, slot: int) -> None:
    """Mark a key as changed."""
    flags = st.slots[slot, FLAGS]
    if flags & CHANGED == 0:
        st.meta[N_CHANGED] += 1
        if flags & IN_QUEUE == 0:
            place = st.meta[QUEUE_HEAD] + st.meta[QUEUE_LEN]
            if place >= len(st.queue):
                place -= len(st.queue)
            st.queue[place] = slot
            st.meta[QUEUE_LEN] += 1
        st.slots[slot, FLAGS] = flags | CHANGED | IN_QUEUE


@kernel
def enqueue_all(st: State) -> None:
    """Mark every key as changed."""
    for slot in range(st.meta[SLOT_TOP]):
        if st.slots[slot, KEY_BLOCK] >= 0:
            _enqueue(st, slot)
