"""A key's tiles of one group: a ring sorted by start, in one block of the pool.

`q` is the number of a tile: its start divided by the hop. The header of a tile is q << 1 with the
lowest bit set while the tile has something to persist. In-order events touch the newest tile;
a late one finds its tile by bisection, or shifts the newer ones up.
"""

from __future__ import annotations

from streamsvc.features.jit import kernel
from streamsvc.features.layout import (
    DIRTY_LEN,
    FLAGS,
    IN_DIRTY,
    LOW,
    N_TILES,
    RING_BLOCK,
    RING_ROOM,
    RING_SPAN,
    RING_WORDS,
    RINGS,
    UNIT,
    State,
)
from streamsvc.features.pool import alloc, class_of, release
from streamsvc.features.spec import Program

__all__ = [
    "create_tile",
    "drop_oldest",
    "find_tile",
    "lower_bound",
    "mark_dirty",
    "note_dirty",
    "ring_count",
    "ring_of",
    "tile_at",
]


@kernel
def ring_of(group: int) -> int:
    """Where a group's ring words start in a slot's row."""
    return RINGS + group * RING_WORDS


@kernel
def ring_count(st: State, slot: int, group: int) -> int:
    """Number of live tiles."""
    return st.slots[slot, ring_of(group) + RING_SPAN] & LOW


@kernel
def tile_at(st: State, pg: Program, slot: int, group: int, i: int) -> int:
    """Word address of the i-th oldest tile."""
    r = ring_of(group)
    position = (st.slots[slot, r + RING_SPAN] >> 32) + i
    capacity = st.slots[slot, r + RING_ROOM] >> 32
    if position >= capacity:
        position -= capacity
    return (st.slots[slot, r + RING_BLOCK] >> 6) * UNIT + position * pg.stride[group]


@kernel
def lower_bound(st: State, pg: Program, slot: int, group: int, q: int) -> int:
    """How many tiles start before tile number q."""
    low = 0
    high = ring_count(st, slot, group)
    while low < high:
        middle = (low + high) // 2
        if st.pool[tile_at(st, pg, slot, group, middle)] >> 1 < q:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def find_tile(st: State, pg: Program, slot: int, group: int, q: int) -> int:
    """Word address of tile q, or -1."""
    count = ring_count(st, slot, group)
    if count == 0:
        return -1
    newest = tile_at(st, pg, slot, group, count - 1)
    number = st.pool[newest] >> 1
    if number == q:
        return newest
    if number < q:
        return -1
    i = lower_bound(st, pg, slot, group, q)
    address = tile_at(st, pg, slot, group, i)
    return address if st.pool[address] >> 1 == q else -1


@kernel
def create_tile(st: State, pg: Program, slot: int, group: int, q: int) -> int:
    """Word address of an empty tile q, which must not be there yet; -1 if the pool must grow."""
    r = ring_of(group)
    row = st.slots[slot]
    stride = pg.stride[group]
    count = row[r + RING_SPAN] & LOW
    if count == row[r + RING_ROOM] >> 32:
        size_class = class_of(stride) if count == 0 else (row[r + RING_BLOCK] & 63) + 1
        while (UNIT << size_class) // stride <= count:
            size_class += 1
        if not _move(st, pg, slot, group, size_class):
            return -1
    i = count
    if count > 0 and st.pool[tile_at(st, pg, slot, group, count - 1)] >> 1 > q:
        i = lower_bound(st, pg, slot, group, q)
    if i == 0 and count > 0:
        first = row[r + RING_SPAN] >> 32
        capacity = row[r + RING_ROOM] >> 32
        first = first - 1 if first > 0 else capacity - 1
        row[r + RING_SPAN] = (first << 32) | (count + 1)
    else:
        row[r + RING_SPAN] += 1
        for k in range(count, i, -1):
            source = tile_at(st, pg, slot, group, k - 1)
            target = tile_at(st, pg, slot, group, k)
            for w in range(stride):
                st.pool[target + w] = st.pool[source + w]
    address = tile_at(st, pg, slot, group, i)
    st.pool[address] = q << 1
    for w in range(1, stride):
        st.pool[address + w] = 0
    st.meta[N_TILES] += 1
    return address


@kernel
def _move(st: State, pg: Program, slot: int, group: int, size_class: int) -> bool:
    """Move a ring into a block of another size; False if the pool must grow first."""
    block = alloc(st, size_class)
    if block < 0:
        return False
    r = ring_of(group)
    row = st.slots[slot]
    stride = pg.stride[group]
    count = row[r + RING_SPAN] & LOW
    for i in range(count):
        source = tile_at(st, pg, slot, group, i)
        target = block * UNIT + i * stride
        for w in range(stride):
            st.pool[target + w] = st.pool[source + w]
    old = row[r + RING_BLOCK]
    if old >= 0:
        release(st, old >> 6, old & 63)
    row[r + RING_BLOCK] = (block << 6) | size_class
    row[r + RING_SPAN] = count
    row[r + RING_ROOM] = (((UNIT << size_class) // stride) << 32) | (row[r + RING_ROOM] & LOW)
    return True


@kernel
def drop_oldest(st: State, pg: Program, slot: int, group: int, n: int) -> None:
    """Forget the n oldest tiles; the block shrinks with the ring."""
    if n == 0:
        return
    r = ring_of(group)
    row = st.slots[slot]
    for i in range(n):
        row[r + RING_ROOM] -= st.pool[tile_at(st, pg, slot, group, i)] & 1
    count = (row[r + RING_SPAN] & LOW) - n
    st.meta[N_TILES] -= n
    block = row[r + RING_BLOCK]
    if count == 0:
        release(st, block >> 6, block & 63)
        row[r + RING_BLOCK] = -1
        row[r + RING_SPAN] = 0
        row[r + RING_ROOM] = 0
        return
    capacity = row[r + RING_ROOM] >> 32
    first = (row[r + RING_SPAN] >> 32) + n
    if first >= capacity:
        first -= capacity
    row[r + RING_SPAN] = (first << 32) | count
    # A quarter full: half the block serves others. Without room to move, it stays as it is.
    size_class = class_of(2 * count * pg.stride[group])
    if 4 * count <= capacity and size_class < block & 63:
        _move(st, pg, slot, group, size_class)


@kernel
def mark_dirty(st: State, slot: int, group: int, address: int) -> None:
    """Note that a tile has something to persist."""
    if st.pool[address] & 1 == 0:
        st.pool[address] |= 1
        st.slots[slot, ring_of(group) + RING_ROOM] += 1
        note_dirty(st, slot)


@kernel
def note_dirty(st: State, slot: int) -> None:
    """Note that a key has something to persist."""
    if st.slots[slot, FLAGS] & IN_DIRTY == 0:
        st.slots[slot, FLAGS] |= IN_DIRTY
        st.dirty[st.meta[DIRTY_LEN]] = slot
        st.meta[DIRTY_LEN] += 1
