"""Rows out: changed keys in the order of their change, due keys in the order of their instants.

Both kernels fill columns [row, stop) of the output arrays and return how far they came: less than
`stop` when nothing is left, or when the key bytes do not fit (`meta[NEED_KEY]` > 0: resume with a
larger buffer).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamsvc.columns import F64, I64, U8, Bools
from streamsvc.features.fold import fold, settle
from streamsvc.features.jit import kernel
from streamsvc.features.key_index import forget_key
from streamsvc.features.layout import (
    AS_OF,
    CHANGED,
    CLOCK,
    FLAGS,
    HEAD,
    IN_QUEUE,
    KEY_BLOCK,
    KEY_LEN,
    N_CHANGED,
    NEED_KEY,
    NEVER,
    QUEUE_HEAD,
    QUEUE_LEN,
    TIME,
    UNIT,
    State,
)
from streamsvc.features.schedule import earliest, reschedule
from streamsvc.features.spec import Program

__all__ = ["Rows", "emit_changed", "emit_due", "sweep"]


class Rows(NamedTuple):
    """Output arrays of n rows: `out` and its view `out_float`, `valid` are (features, n)."""

    out: I64
    out_float: F64
    valid: Bools
    as_of: I64
    valid_until: I64
    keys: U8
    key_end: I64
    """Key i ends here and starts where key i - 1 ends."""


@kernel
def emit_changed(st: State, pg: Program, rows: Rows, row: int, stop: int) -> int:
    """Emit changed keys as of the clock."""
    st.meta[NEED_KEY] = 0
    while row < stop and st.meta[QUEUE_LEN] > 0:
        slot = st.queue[st.meta[QUEUE_HEAD]]
        if st.slots[slot, FLAGS] & CHANGED:
            if not _emit(st, pg, slot, rows, row):
                return row
            row += 1
        st.slots[slot, FLAGS] &= ~IN_QUEUE
        head = st.meta[QUEUE_HEAD] + 1
        st.meta[QUEUE_HEAD] = 0 if head == len(st.queue) else head
        st.meta[QUEUE_LEN] -= 1
    return row


@kernel
def emit_due(st: State, pg: Program, rows: Rows, row: int, stop: int) -> int:
    """Emit keys of which a tile has left a window since their last row."""
    st.meta[NEED_KEY] = 0
    while row < stop:
        bucket = earliest(st)
        if bucket < 0 or st.buckets[bucket, TIME] > st.meta[CLOCK]:
            break
        if not _emit(st, pg, st.buckets[bucket, HEAD], rows, row):
            break
        row += 1
    return row


@kernel
def _emit(st: State, pg: Program, slot: int, rows: Rows, row: int) -> bool:
    key_start = rows.key_end[row - 1] if row > 0 else 0
    length = st.slots[slot, KEY_LEN]
    if key_start + length > len(rows.keys):
        st.meta[NEED_KEY] = key_start + length
        return False
    pool = st.pool.view(np.uint8)
    key = st.slots[slot, KEY_BLOCK] * (UNIT * 8)
    for k in range(length):
        rows.keys[key_start + k] = pool[key + k]
    rows.key_end[row] = key_start + length
    due = settle(st, pg, slot, st.meta[CLOCK])
    fold(st, pg, slot, rows.out, rows.out_float, rows.valid, row)
    rows.as_of[row] = st.slots[slot, AS_OF]
    rows.valid_until[row] = due
    reschedule(st, slot, due)
    if st.slots[slot, FLAGS] & CHANGED:
        st.slots[slot, FLAGS] &= ~CHANGED
        st.meta[N_CHANGED] -= 1
    if due == NEVER:
        forget_key(st, slot)
    return True


@kernel
def sweep(st: State, pg: Program, through: int, limit: int) -> int:
    """Age keys that were due by `through` without emitting them: their rows are written."""
    done = 0
    while done < limit:
        bucket = earliest(st)
        if bucket < 0 or st.buckets[bucket, TIME] > through:
            break
        slot = st.buckets[bucket, HEAD]
        due = settle(st, pg, slot, through)
        reschedule(st, slot, due)
        if due == NEVER:
            forget_key(st, slot)
        done += 1
    return done
