"""Rows out: changed keys in the order of their change, due keys in the order of their instants; and
while events come in, the row of each of them.

All kernels fill columns [row, stop) of the output arrays and return how far they came: less than
`stop` when nothing is left, or when key bytes or text do not fit (`meta[NEED_KEY]` or
`meta[NEED_TEXT]` > 0: resume with a larger buffer).
"""

from __future__ import annotations

from typing import NamedTuple

from streamsvc.columns import I64, U8
from streamsvc.features.kernels.ahead import expect_links, expect_row, expect_slot
from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.fold import fold, settle
from streamsvc.features.kernels.fold_extras import fold_extras
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.key_index import forget_key, key_length, key_place
from streamsvc.features.kernels.layout import (
    AS_OF,
    BUCKET_WORDS,
    CHANGED,
    CLOCK,
    FAR_PAST,
    FLAGS,
    HEAD,
    IN_QUEUE,
    LIFETIME,
    N_CHANGED,
    NEED_KEY,
    NEED_TEXT,
    NEVER,
    NEXT,
    QUEUE_HEAD,
    QUEUE_LEN,
    TIME,
    State,
)
from streamsvc.features.kernels.output import Output, bind_output
from streamsvc.features.kernels.pointers import pointer
from streamsvc.features.kernels.program import Program
from streamsvc.features.kernels.schedule import due_of, earliest, reschedule

__all__ = ["NO_ROOM", "Rows", "Target", "bind_rows", "emit_changed", "emit_due", "put_row", "sweep"]

AHEAD = 2
"""Rows between asking for a key's tiles and folding them."""

NO_ROOM = FAR_PAST
"""No instant at which anything is due."""


class Rows(NamedTuple):
    """Output arrays of n rows; `out` and `valid` are (features, n)."""

    out: I64
    valid: U8
    as_of: I64
    valid_until: I64
    keys: U8
    key_end: I64
    """Key i ends here and starts where key i - 1 ends."""
    aged: U8
    """1 where something has left a window since the key's last row, of an event too; else 0."""
    texts: U8


class Target(NamedTuple):
    """Rows as pointers."""

    out: Output
    as_of: I64
    valid_until: I64
    keys: U8
    keys_size: int
    key_end: I64
    aged: U8


@kernel
def bind_rows(rows: Rows) -> Target:
    """Pointers to the arrays."""
    return Target(
        bind_output(rows.out, rows.valid, rows.texts),
        pointer(rows.as_of),
        pointer(rows.valid_until),
        pointer(rows.keys),
        len(rows.keys),
        pointer(rows.key_end),
        pointer(rows.aged),
    )


@kernel
def emit_changed(st: State, pg: Program, rows: Rows, row: int, stop: int) -> int:
    """Emit changed keys as of the clock."""
    cx, target = bind(st, pg), bind_rows(rows)
    cx.meta[NEED_KEY] = cx.meta[NEED_TEXT] = 0
    while row < stop and cx.meta[QUEUE_LEN] > 0:
        head = cx.meta[QUEUE_HEAD]
        slot = cx.queue[head]
        # Past the end of the queue lie slots of before: as good as any.
        expect_slot(cx, cx.queue[min(head + 2 * AHEAD, cx.queue_size - 1)])
        following = cx.queue[min(head + AHEAD, cx.queue_size - 1)]
        expect_row(cx, following)
        expect_links(cx, following)
        if cx.slots[slot * cx.width + FLAGS] & CHANGED:
            if not _emit(cx, slot, target, row):
                return row
            row += 1
        cx.slots[slot * cx.width + FLAGS] &= ~IN_QUEUE
        cx.meta[QUEUE_HEAD] = 0 if head + 1 == cx.queue_size else head + 1
        cx.meta[QUEUE_LEN] -= 1
    return row


@kernel
def emit_due(st: State, pg: Program, rows: Rows, row: int, stop: int) -> int:
    """Emit keys of which a tile has left a window since their last row."""
    cx, target = bind(st, pg), bind_rows(rows)
    cx.meta[NEED_KEY] = cx.meta[NEED_TEXT] = 0
    while row < stop:
        bucket = earliest(cx) * BUCKET_WORDS
        if bucket < 0 or cx.buckets[bucket + TIME] > cx.meta[CLOCK]:
            break
        slot = cx.buckets[bucket + HEAD]
        following = cx.slots[slot * cx.width + NEXT]
        if following >= 0:
            expect_row(cx, following)
            expect_slot(cx, max(cx.slots[following * cx.width + NEXT], 0))
        if not _emit(cx, slot, target, row):
            break
        row += 1
    return row


@inlined
def put_row(cx: Context, slot: int, clock: int, rows: Target, row: int) -> int:
    """Write a key's row as of the clock; may be called again for the same row after `NO_ROOM`.

    Returns when the key is due next, NEVER without tiles.
    """
    s = slot * cx.width
    key_start = rows.key_end[row - 1] if row > 0 else 0
    length = key_length(cx, slot)
    if key_start + length > rows.keys_size:
        cx.meta[NEED_KEY] = key_start + length
        return NO_ROOM
    key, at = key_place(cx, slot)
    for k in range(length):
        rows.keys[key_start + k] = key[at + k]
    rows.key_end[row] = key_start + length
    rows.aged[row] = due_of(cx, slot) <= clock
    due = settle(cx, slot, clock)
    fold(cx, slot, rows.out, row)
    if cx.n_extras > 0 and not fold_extras(cx, slot, rows.out, row):
        return NO_ROOM
    rows.as_of[row] = cx.slots[s + AS_OF]
    # The exit of a lifetime is an instant, though one that never comes.
    rows.valid_until[row] = due if due < LIFETIME else NEVER
    reschedule(cx, slot, due)
    return due


@inlined
def _emit(cx: Context, slot: int, rows: Target, row: int) -> bool:
    s = slot * cx.width
    due = put_row(cx, slot, cx.meta[CLOCK], rows, row)
    if due == NO_ROOM:
        return False
    if cx.slots[s + FLAGS] & CHANGED:
        cx.slots[s + FLAGS] &= ~CHANGED
        cx.meta[N_CHANGED] -= 1
    if due == NEVER:
        forget_key(cx, slot)
    return True


@kernel
def sweep(st: State, pg: Program, through: int, limit: int) -> int:
    """Age keys that were due by `through` without emitting them: their rows are written."""
    cx = bind(st, pg)
    done = 0
    while done < limit:
        bucket = earliest(cx) * BUCKET_WORDS
        if bucket < 0 or cx.buckets[bucket + TIME] > through:
            break
        slot = cx.buckets[bucket + HEAD]
        due = settle(cx, slot, through)
        reschedule(cx, slot, due)
        if due == NEVER:
            forget_key(cx, slot)
        done += 1
    return done
