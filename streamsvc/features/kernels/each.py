"""Events into tiles, and after each of them the row of its key.

`locate` of `kernels.apply` goes before it. An event counts once, however often its row has to wait
for room: `done` says how far events and rows are, whatever the kernel returns.
"""

from __future__ import annotations

from streamsvc.columns import I64
from streamsvc.features.kernels.ahead import expect_newest, expect_row, expect_slot
from streamsvc.features.kernels.apply import Batch, update
from streamsvc.features.kernels.context import bind
from streamsvc.features.kernels.emit import NO_ROOM, Rows, bind_rows, put_row
from streamsvc.features.kernels.jit import kernel
from streamsvc.features.kernels.layout import NEED_KEY, NEED_TEXT, State
from streamsvc.features.kernels.program import Program

__all__ = ["EVENTS", "ROWS", "update_each"]

EVENTS, ROWS = 0, 1
"""Words of `done`: events that count, rows that are written."""

AHEAD = 4
"""Events between asking for a cache line and reading it."""


@kernel
def update_each(
    st: State,
    pg: Program,
    batch: Batch,
    rows: Rows,
    event: I64,
    done: I64,
    low: int,
    high: int,
) -> int:
    """Add events [low, high), and write the row of each that is not expired as of its clock; row i
    is that of `event[i]`. Returns where to resume.

    The keys still count as changed.
    """
    cx, target, where = bind(st, pg), bind_rows(rows), batch.where
    cx.meta[NEED_KEY] = cx.meta[NEED_TEXT] = 0
    for i in range(low, high):
        if i + 2 * AHEAD < high and where[i + 2 * AHEAD] >= 0:
            expect_slot(cx, where[i + 2 * AHEAD])
        if i + AHEAD < high and where[i + AHEAD] >= 0:
            expect_newest(cx, where[i + AHEAD])
            expect_row(cx, where[i + AHEAD])
        if done[EVENTS] == i:
            if update(st, pg, batch, i, i + 1) == i:
                return i
            done[EVENTS] = i + 1
        if where[i] < 0:
            continue
        row = done[ROWS]
        if put_row(cx, where[i], batch.clocks[i], target, row) == NO_ROOM:
            return i
        # `locate` has been at the events behind it, too: an expired one may have moved this.
        target.as_of[row] = min(target.as_of[row], batch.clocks[i])
        event[row] = i
        done[ROWS] = row + 1
    return high
