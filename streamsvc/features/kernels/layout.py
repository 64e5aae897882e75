"""Where everything lies in the arrays that hold a window state.

A *slot* is a row of `slots`, one per live key, with its bytes if they are few. Those of a long
key and all tiles are in *blocks* of `pool`, one array of int64 words handed out by a buddy
allocator. A *ring* is a key's tiles of one group (windows with the same hop), sorted by start, in
one block; a *tile* is a header word and the accumulators that the functions need. A *bucket* lists
the keys that fall due at one instant.

Sketches and text do not fit a tile: their accumulators hold a *handle*, 0 or the address and size
class of a block of their own, the *payload* (`kernels.payload`).

Bytes: a slot takes 64 + 24 per group, its place in the index 16-32, a key of more than 16 bytes a
block of at least 32; a tile takes 8 (header) + 8 per column (count) + 8 per sum, mean (one for
both, of floats), min or max, 16 for std and var, 32 for first and for last each, and a ring is
rounded up to a power of two of 32 bytes. A ring of more than 16 tiles has room for one more, its
digest.
"""

from __future__ import annotations

from typing import NamedTuple

from streamsvc.columns import I64, U8

__all__ = ["FAR_PAST", "LIFETIME", "NEVER", "State"]

NEVER = 2**63 - 1
"""An instant after all others."""
LIFETIME = 2**59
"""An instant that no clock reaches: what falls due later never does."""
FAR_PAST = -(2**62)
"""An instant before all others; far enough from the edge to add a window."""

# meta: counters and list heads.
CLOCK = 0
N_KEYS = 1
N_TILES = 2
SLOT_TOP = 3
SLOT_FREE = 4
N_CHANGED = 5
QUEUE_HEAD = 6
QUEUE_LEN = 7
DIRTY_LEN = 8
BUCKET_TOP = 9
BUCKET_FREE = 10
HEAP_LEN = 11
EXPIRED = 12
NEED_CLASS = 13
NEED_KEY = 14
PAYLOAD_STEP = 15  # accumulators with payload that the row at hand has been through already
TEXT_TOP = 16  # bytes of text written to the rows at hand
NEED_TEXT = 17
META_WORDS = 18

# slots: one row per key, then RING_WORDS per group.
KEY_ID = 0  # length << 32 | tag; -1: the slot is free
KEY = 1  # its bytes; of a key longer than KEY_BYTES the block that they are in
AS_OF = 3
FLAGS = 4
BUCKET = 5  # -1: not scheduled
PREV = 6
NEXT = 7  # also links free slots
RINGS = 8
RING_BLOCK = 0  # block address << 7 | size class << 1 | HOLDS; negative: no block
RING_SPAN = 1  # first << 32 | count
RING_ROOM = 2  # capacity << 32 | dirty tiles
RING_WORDS = 3

HOLDS = 1
"""Flag of a ring: its digest holds (`kernels.rings`)."""

KEY_BYTES = 16
"""The longest key that lies in its slot: a line less to wait for."""

# flags of a slot. A slot may be evicted and reused while it waits in a list.
CHANGED = 1
IN_QUEUE = 2
IN_DIRTY = 4

# buckets
TIME = 0
HEAD = 1  # also links free buckets
COUNT = 2
BUCKET_WORDS = 3

UNIT = 4
"""Words in the smallest block of the pool."""
MAX_CLASS = 44
LOW = 0xFFFFFFFF


class State(NamedTuple):
    """The arrays of one window state, as kernels take them. All int64 but `tags`."""

    meta: I64
    slots: I64
    table: I64
    """Open addressing: 0, or key tag << 32 | slot + 1."""
    pool: I64
    tags: U8
    """Per unit of the pool: size class + 1 where a free block starts, else 0."""
    heads: I64
    """Per size class: first free block, or -1."""
    buckets: I64
    heap: I64
    """Buckets ordered by instant."""
    instants: I64
    """Open addressing: 0, or bucket + 1."""
    queue: I64
    """Ring of slots that wait in `emit`."""
    dirty: I64
    """Slots that have something to persist."""
    cuts: I64
    """Scratch: per window, the oldest tile inside."""
    scratch: I64
    """What a union of sketches is made in; zeros between calls, one word where there is none."""
