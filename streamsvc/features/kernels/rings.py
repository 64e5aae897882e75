"""A key's tiles of one group: a ring sorted by start, in one block of the pool.

`q` is the number of a tile: its start divided by the hop. The header of a tile is q << 1 with the
lowest bit set while the tile has something to persist. In-order events touch the newest tile;
a late one finds its tile by bisection, or shifts the newer ones up.

Behind the places of a large ring there is a *digest*: what all its tiles but the newest hold
together, as a tile would hold it. Whoever folds the ring makes it; a flag says whether it holds. So
a row of a long window costs no more than one of a short window, as long as
events touch only its newest tile.
"""

from __future__ import annotations

from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import (
    DIRTY_LEN,
    FLAGS,
    HOLDS,
    IN_DIRTY,
    LOW,
    N_TILES,
    RING_BLOCK,
    RING_ROOM,
    RING_SPAN,
    RING_WORDS,
    RINGS,
    UNIT,
)
from streamsvc.features.kernels.payload import drop_payloads
from streamsvc.features.kernels.pool import alloc, class_of, release

__all__ = [
    "create_tile",
    "digest_of",
    "drop_oldest",
    "ensure_room",
    "ensure_tile",
    "find_tile",
    "lower_bound",
    "mark_dirty",
    "note_dirty",
    "ring_block",
    "ring_count",
    "ring_of",
    "tile_at",
]


DIGEST_FROM = 16
"""Tiles from which a ring has a digest."""


@inlined
def ring_of(cx: Context, slot: int, group: int) -> int:
    """Where a group's ring words start in `slots`."""
    return slot * cx.width + RINGS + group * RING_WORDS


@inlined
def ring_count(cx: Context, slot: int, group: int) -> int:
    """Number of live tiles."""
    return cx.slots[ring_of(cx, slot, group) + RING_SPAN] & LOW


@inlined
def ring_block(cx: Context, r: int) -> int:
    """The block of the ring at `r`."""
    return cx.slots[r + RING_BLOCK] >> 7


@inlined
def _class_at(cx: Context, r: int) -> int:
    return cx.slots[r + RING_BLOCK] >> 1 & 63


@inlined
def tile_at(cx: Context, r: int, stride: int, i: int) -> int:
    """Word address of the i-th oldest tile of the ring at `r`."""
    position = (cx.slots[r + RING_SPAN] >> 32) + i
    capacity = cx.slots[r + RING_ROOM] >> 32
    if position >= capacity:
        position -= capacity
    return ring_block(cx, r) * UNIT + position * stride


@inlined
def digest_of(cx: Context, r: int, stride: int) -> int:
    """Word address of the digest of the ring at `r`, or -1 for a small ring, which has none."""
    capacity = cx.slots[r + RING_ROOM] >> 32
    if capacity < DIGEST_FROM or (UNIT << _class_at(cx, r)) < (capacity + 1) * stride:
        return -1
    return ring_block(cx, r) * UNIT + capacity * stride


@inlined
def _spoil(cx: Context, r: int) -> None:
    """Note that another tile than the newest changes, or which one is the newest."""
    cx.slots[r + RING_BLOCK] &= ~HOLDS


@inlined
def _capacity(size_class: int, stride: int) -> int:
    """How many tiles a block has room for, beside the digest of so many."""
    tiles = (UNIT << size_class) // stride
    return tiles - 1 if tiles > DIGEST_FROM else tiles


@inlined
def lower_bound(cx: Context, r: int, stride: int, q: int) -> int:
    """How many tiles of the ring at `r` start before tile number q."""
    low = 0
    high = cx.slots[r + RING_SPAN] & LOW
    while low < high:
        middle = (low + high) >> 1
        if cx.pool[tile_at(cx, r, stride, middle)] >> 1 < q:
            low = middle + 1
        else:
            high = middle
    return low


@inlined
def find_tile(cx: Context, slot: int, group: int, q: int) -> int:
    """Word address of tile q, which is about to change; or -1."""
    r = ring_of(cx, slot, group)
    stride = cx.stride[group]
    count = cx.slots[r + RING_SPAN] & LOW
    if count == 0:
        return -1
    newest = tile_at(cx, r, stride, count - 1)
    number = cx.pool[newest] >> 1
    if number == q:
        return newest
    if number < q:
        return -1
    address = tile_at(cx, r, stride, lower_bound(cx, r, stride, q))
    if cx.pool[address] >> 1 != q:
        return -1
    _spoil(cx, r)
    return address


@inlined
def ensure_tile(cx: Context, slot: int, group: int, q: int, guess: int) -> int:
    """How many tiles start before tile q, which is there afterwards and about to change; -1 if the
    pool must grow.

    Found at once if that is `guess` already, or if tile q is the newest or the oldest.
    """
    r = ring_of(cx, slot, group)
    stride = cx.stride[group]
    i = _place_near(cx, r, stride, q, guess)
    if i < cx.slots[r + RING_SPAN] & LOW and cx.pool[tile_at(cx, r, stride, i)] >> 1 == q:
        _spoil(cx, r)
        return i
    return i if _insert_tile(cx, slot, group, q, i) >= 0 else -1


@inlined
def _place_near(cx: Context, r: int, stride: int, q: int, guess: int) -> int:
    count = cx.slots[r + RING_SPAN] & LOW
    if count == 0:
        return 0
    number = cx.pool[tile_at(cx, r, stride, guess)] >> 1
    if number == q:
        return guess
    if number > q and guess == 0:
        return 0
    if number < q and guess == count - 1:
        return count
    return lower_bound(cx, r, stride, q)


@inlined
def create_tile(cx: Context, slot: int, group: int, q: int) -> int:
    """Word address of an empty tile q, which must not be there yet; -1 if the pool must grow."""
    r = ring_of(cx, slot, group)
    stride = cx.stride[group]
    i = cx.slots[r + RING_SPAN] & LOW
    if i > 0 and cx.pool[tile_at(cx, r, stride, i - 1)] >> 1 > q:
        i = lower_bound(cx, r, stride, q)
    return _insert_tile(cx, slot, group, q, i)


# Copied into each caller up to what is rare: a call passes the context through memory.
@inlined
def _insert_tile(cx: Context, slot: int, group: int, q: int, i: int) -> int:
    """`create_tile` where i tiles start before tile q."""
    r = ring_of(cx, slot, group)
    stride = cx.stride[group]
    count = cx.slots[r + RING_SPAN] & LOW
    if count == cx.slots[r + RING_ROOM] >> 32 and not ensure_room(cx, r, stride, count + 1):
        return -1
    _spoil(cx, r)
    if i == 0 and count > 0:
        first = cx.slots[r + RING_SPAN] >> 32
        if first == 0:
            first = cx.slots[r + RING_ROOM] >> 32
        cx.slots[r + RING_SPAN] = ((first - 1) << 32) | (count + 1)
    else:
        cx.slots[r + RING_SPAN] += 1
        if i < count:
            _shift(cx, r, stride, i, count)
    address = tile_at(cx, r, stride, i)
    cx.pool[address] = q << 1
    for w in range(1, stride):
        cx.pool[address + w] = 0
    cx.meta[N_TILES] += 1
    return address


@kernel
def _shift(cx: Context, r: int, stride: int, i: int, count: int) -> None:
    """Move the tiles from i on up by one."""
    for k in range(count, i, -1):
        _copy(cx, tile_at(cx, r, stride, k - 1), tile_at(cx, r, stride, k), stride)


@kernel
def ensure_room(cx: Context, r: int, stride: int, tiles: int) -> bool:
    """Let the ring at `r` have room for so many tiles; False if the pool must grow first."""
    capacity = cx.slots[r + RING_ROOM] >> 32
    if tiles <= capacity:
        return True
    size_class = class_of(tiles * stride) if capacity == 0 else _class_at(cx, r) + 1
    while _capacity(size_class, stride) < tiles:
        size_class += 1
    return _move(cx, r, stride, size_class)


@inlined
def _copy(cx: Context, source: int, target: int, words: int) -> None:
    for w in range(words):
        cx.pool[target + w] = cx.pool[source + w]


@kernel
def _move(cx: Context, r: int, stride: int, size_class: int) -> bool:
    """Move a ring into a block of another size; False if the pool must grow first."""
    block = alloc(cx, size_class)
    if block < 0:
        return False
    count = cx.slots[r + RING_SPAN] & LOW
    for i in range(count):
        _copy(cx, tile_at(cx, r, stride, i), block * UNIT + i * stride, stride)
    if ring_block(cx, r) >= 0:
        release(cx, ring_block(cx, r), _class_at(cx, r))
    cx.slots[r + RING_BLOCK] = (block << 7) | (size_class << 1)
    cx.slots[r + RING_SPAN] = count
    capacity = _capacity(size_class, stride)
    cx.slots[r + RING_ROOM] = (capacity << 32) | (cx.slots[r + RING_ROOM] & LOW)
    return True


@kernel
def drop_oldest(cx: Context, slot: int, group: int, n: int) -> None:
    """Forget the n oldest tiles; the block shrinks with the ring."""
    if n == 0:
        return
    r = ring_of(cx, slot, group)
    stride = cx.stride[group]
    for i in range(n):
        tile = tile_at(cx, r, stride, i)
        cx.slots[r + RING_ROOM] -= cx.pool[tile] & 1
        drop_payloads(cx, group, tile)
    count = (cx.slots[r + RING_SPAN] & LOW) - n
    cx.meta[N_TILES] -= n
    if count == 0:
        release(cx, ring_block(cx, r), _class_at(cx, r))
        cx.slots[r + RING_BLOCK] = -1
        cx.slots[r + RING_SPAN] = 0
        cx.slots[r + RING_ROOM] = 0
        return
    capacity = cx.slots[r + RING_ROOM] >> 32
    first = (cx.slots[r + RING_SPAN] >> 32) + n
    if first >= capacity:
        first -= capacity
    cx.slots[r + RING_SPAN] = (first << 32) | count
    _spoil(cx, r)
    # A quarter full: half the block serves others. Without room to move, it stays as it is.
    if 4 * count <= capacity:
        size_class = class_of(2 * count * stride)
        if size_class < _class_at(cx, r):
            _move(cx, r, stride, size_class)


@inlined
def mark_dirty(cx: Context, slot: int, group: int, address: int) -> None:
    """Note that a tile has something to persist."""
    if cx.pool[address] & 1 == 0:
        cx.pool[address] |= 1
        cx.slots[ring_of(cx, slot, group) + RING_ROOM] += 1
        note_dirty(cx, slot)


@inlined
def note_dirty(cx: Context, slot: int) -> None:
    """Note that a key has something to persist."""
    s = slot * cx.width
    if cx.slots[s + FLAGS] & IN_DIRTY == 0:
        cx.slots[s + FLAGS] |= IN_DIRTY
        cx.dirty[cx.meta[DIRTY_LEN]] = slot
        cx.meta[DIRTY_LEN] += 1
