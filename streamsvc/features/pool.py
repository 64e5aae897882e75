"""The pool: a buddy allocator over one array of int64 words.

Blocks are 2^class units long and aligned to their size; freed neighbours merge, so the room left
by keys that have gone serves keys and rings of any size. A free block keeps its list links in its
first two words. Addresses are in units; `alloc` returns -1 when the pool must grow first.
"""

from __future__ import annotations

from streamsvc.features.jit import kernel
from streamsvc.features.layout import MAX_CLASS, NEED_CLASS, UNIT, State

__all__ = ["add_region", "alloc", "class_of", "release"]


@kernel
def class_of(words: int) -> int:
    """The size class of the smallest block that holds this many words."""
    units = (words + UNIT - 1) // UNIT
    size_class = 0
    while (1 << size_class) < units:
        size_class += 1
    return size_class


@kernel
def _push(st: State, address: int, size_class: int) -> None:
    head = st.heads[size_class]
    st.pool[address * UNIT] = head
    st.pool[address * UNIT + 1] = -1
    if head >= 0:
        st.pool[head * UNIT + 1] = address
    st.heads[size_class] = address
    st.tags[address] = size_class + 1


@kernel
def _unlink(st: State, address: int, size_class: int) -> None:
    following = st.pool[address * UNIT]
    before = st.pool[address * UNIT + 1]
    if before >= 0:
        st.pool[before * UNIT] = following
    else:
        st.heads[size_class] = following
    if following >= 0:
        st.pool[following * UNIT + 1] = before
    st.tags[address] = 0


@kernel
def alloc(st: State, size_class: int) -> int:
    """A block of that class, or -1 with the class noted in `meta[NEED_CLASS]`."""
    found = size_class
    while found < MAX_CLASS and st.heads[found] < 0:
        found += 1
    if found == MAX_CLASS:
        st.meta[NEED_CLASS] = size_class
        return -1
    address = st.heads[found]
    _unlink(st, address, found)
    while found > size_class:
        found -= 1
        _push(st, address + (1 << found), found)
    return address


@kernel
def release(st: State, address: int, size_class: int) -> None:
    """Give a block back, merged with its free neighbours."""
    units = len(st.tags)
    while size_class + 1 < MAX_CLASS:
        buddy = address ^ (1 << size_class)
        if buddy + (1 << size_class) > units or st.tags[buddy] != size_class + 1:
            break
        _unlink(st, buddy, size_class)
        address = min(address, buddy)
        size_class += 1
    _push(st, address, size_class)


@kernel
def add_region(st: State, low: int, high: int) -> None:
    """Hand the units [low, high), new at the end of the pool, to the allocator."""
    while low < high:
        size_class = 0
        while (
            size_class + 1 < MAX_CLASS
            and low & ((1 << (size_class + 1)) - 1) == 0
            and low + (1 << (size_class + 1)) <= high
        ):
            size_class += 1
        release(st, low, size_class)
        low += 1 << size_class
