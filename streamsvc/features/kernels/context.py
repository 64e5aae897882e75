"""What kernels pass to each other: the arrays of a state and its program as bare pointers.

A tuple of arrays costs an atomic count per array and call, which came to ten microseconds an event
when it was measured; pointers cost nothing. A kernel that Python calls takes the arrays, binds them
once and hands the `Context` down; Python keeps the arrays alive meanwhile.
"""

from __future__ import annotations

from typing import NamedTuple

from streamsvc.columns import F64, I64, U8, U32
from streamsvc.features.kernels.jit import inlined
from streamsvc.features.kernels.layout import State
from streamsvc.features.kernels.pointers import as_bytes, as_floats, as_halves, pointer
from streamsvc.features.kernels.program import Program

__all__ = ["Context", "bind"]


class Context(NamedTuple):
    """Pointers to flat memory, and how long it is. Field by field as in State and Program."""

    meta: I64
    slots: I64
    """Row i starts at i * width."""
    slot_bytes: U8
    """The bytes of the slots."""
    width: int
    table: I64
    table_mask: int
    pool: I64
    floats: F64
    """The pool's words as floats."""
    bytes: U8
    """The pool's bytes."""
    halves: U32
    """The pool's words as halves."""
    tags: U8
    units: int
    heads: I64
    buckets: I64
    heap: I64
    instants: I64
    instants_mask: int
    queue: I64
    queue_size: int
    dirty: I64
    cuts: I64
    scratch: I64
    scratch_bytes: U8
    scratch_halves: U32
    groups: int
    hop: I64
    stride: I64
    first_window: I64
    first_entry: I64
    window: I64
    entries: I64
    first_extra: I64
    extras: I64
    n_extras: int
    first_output: I64
    outputs: I64
    shortest: int
    longest: int


@inlined
def bind(st: State, pg: Program) -> Context:
    """The context of one call."""
    return Context(
        pointer(st.meta),
        pointer(st.slots),
        as_bytes(st.slots),
        st.slots.shape[1],
        pointer(st.table),
        len(st.table) - 1,
        pointer(st.pool),
        as_floats(st.pool),
        as_bytes(st.pool),
        as_halves(st.pool),
        pointer(st.tags),
        len(st.tags),
        pointer(st.heads),
        pointer(st.buckets),
        pointer(st.heap),
        pointer(st.instants),
        len(st.instants) - 1,
        pointer(st.queue),
        len(st.queue),
        pointer(st.dirty),
        pointer(st.cuts),
        pointer(st.scratch),
        as_bytes(st.scratch),
        as_halves(st.scratch),
        len(pg.hop),
        pointer(pg.hop),
        pointer(pg.stride),
        pointer(pg.first_window),
        pointer(pg.first_entry),
        pointer(pg.window),
        pointer(pg.entries),
        pointer(pg.first_extra),
        pointer(pg.extras),
        len(pg.extras),
        pointer(pg.first_output),
        pointer(pg.outputs),
        pg.span[0],
        pg.span[1],
    )
