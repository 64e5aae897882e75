"""The pool: a buddy allocator over one array of int64 words.

Blocks are 2^class units long and aligned to their size; freed neighbours merge, so the room left
by keys that have gone serves keys and rings of any size. A free block keeps its list links in its
first two words. Addresses are in units; `alloc` returns -1 when the pool must grow first.
"""

from __future__ import annotations

from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import MAX_CLASS, NEED_CLASS, UNIT, State
from streamsvc.features.kernels.program import Program

__all__ = ["add_region", "alloc", "class_of", "release"]


@kernel
def class_of(words: int) -> int:
    """The size class of the smallest block that holds this many words."""
    units = (words + UNIT - 1) // UNIT
    size_class = 0
    while (1 << size_class) < units:
        size_class += 1
    return size_class


@inlined
def _push(cx: Context, address: int, size_class: int) -> None:
    head = cx.heads[size_class]
    cx.pool[address * UNIT] = head
    cx.pool[address * UNIT + 1] = -1
    if head >= 0:
        cx.pool[head * UNIT + 1] = address
    cx.heads[size_class] = address
    cx.tags[address] = size_class + 1


@inlined
def _unlink(cx: Context, address: int, size_class: int) -> None:
    following = cx.pool[address * UNIT]
    before = cx.pool[address * UNIT + 1]
    if before >= 0:
        cx.pool[before * UNIT] = following
    else:
        cx.heads[size_class] = following
    if following >= 0:
        cx.pool[following * UNIT + 1] = before
    cx.tags[address] = 0


@kernel
def alloc(cx: Context, size_class: int) -> int:
    """A block of that class, or -1 with the class noted in `meta[NEED_CLASS]`."""
    found = size_class
    while found < MAX_CLASS and cx.heads[found] < 0:
        found += 1
    if found == MAX_CLASS:
        cx.meta[NEED_CLASS] = size_class
        return -1
    address = cx.heads[found]
    _unlink(cx, address, found)
    while found > size_class:
        found -= 1
        _push(cx, address + (1 << found), found)
    return address


@kernel
def release(cx: Context, address: int, size_class: int) -> None:
    """Give a block back, merged with its free neighbours."""
    while size_class + 1 < MAX_CLASS:
        buddy = address ^ (1 << size_class)
        if buddy + (1 << size_class) > cx.units or cx.tags[buddy] != size_class + 1:
            break
        _unlink(cx, buddy, size_class)
        address = min(address, buddy)
        size_class += 1
    _push(cx, address, size_class)


@kernel
def add_region(st: State, pg: Program, low: int, high: int) -> None:
    """Hand the units [low, high), new at the end of the pool, to the allocator."""
    cx = bind(st, pg)
    while low < high:
        size_class = 0
        while (
            size_class + 1 < MAX_CLASS
            and low & ((1 << (size_class + 1)) - 1) == 0
            and low + (1 << (size_class + 1)) <= high
        ):
            size_class += 1
        release(cx, low, size_class)
        low += 1 << size_class
