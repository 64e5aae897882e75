"""Payloads: what an accumulator keeps outside its tile, because it grows with what it has seen.

The tile holds a handle: 0 for nothing yet, else 1 + (address << 6 | size class) of a block of the
pool. Payloads belong to one tile and go with it. `alloc` may find the pool full: every function
here then returns False, or -1, with nothing changed.
"""

from __future__ import annotations

from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import UNIT
from streamsvc.features.kernels.pool import alloc, release
from streamsvc.features.kernels.program import EX_HANDLE, EXTRA_WORDS

__all__ = ["class_at", "drop_payload", "drop_payloads", "place_of", "renew"]


@inlined
def place_of(cx: Context, at: int) -> int:
    """Word address of the payload whose handle is at `at`; there must be one."""
    return ((cx.pool[at] - 1) >> 6) * UNIT


@inlined
def class_at(cx: Context, at: int) -> int:
    """Its size class."""
    return (cx.pool[at] - 1) & 63


@kernel
def renew(cx: Context, at: int, size_class: int, keep: int) -> bool:
    """Put a block of that class in place of the payload, with the first `keep` words of it."""
    block = alloc(cx, size_class)
    if block < 0:
        return False
    if cx.pool[at] > 0:
        old = place_of(cx, at)
        for w in range(keep):
            cx.pool[block * UNIT + w] = cx.pool[old + w]
        release(cx, old // UNIT, class_at(cx, at))
    cx.pool[at] = (block << 6 | size_class) + 1
    return True


@kernel
def drop_payload(cx: Context, at: int) -> None:
    """Give the payload back, if there is one."""
    if cx.pool[at] > 0:
        release(cx, place_of(cx, at) // UNIT, class_at(cx, at))
        cx.pool[at] = 0


@kernel
def drop_payloads(cx: Context, group: int, tile: int) -> None:
    """Give all payloads of a tile back."""
    for x in range(cx.first_extra[group], cx.first_extra[group + 1]):
        at_handle = cx.extras[x * EXTRA_WORDS + EX_HANDLE]
        if at_handle >= 0:
            drop_payload(cx, tile + at_handle)
