"""When keys fall due: one bucket per instant, keys linked in and out in constant time.

Exits of tiles lie on the hop grid, so instants are few (at most one per tile boundary ahead) while
keys are many: a heap orders the instants only, and a burst of a hundred thousand keys at one
boundary is a list walked as far as the caller asks for. A key is in at most one bucket.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64
from streamsvc.features.kernels.context import Context, bind
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import (
    BUCKET,
    BUCKET_FREE,
    BUCKET_TOP,
    BUCKET_WORDS,
    COUNT,
    HEAD,
    HEAP_LEN,
    NEVER,
    NEXT,
    PREV,
    TIME,
    State,
)
from streamsvc.features.kernels.program import Program

__all__ = ["due_of", "earliest", "next_due", "refill_instants", "reschedule"]


@kernel
def _home(instant: int, mask: int) -> int:
    h = np.uint64(instant) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(h >> np.uint64(32)) & mask  # type: ignore[return-value]


@inlined
def due_of(cx: Context, slot: int) -> int:
    """When the key falls due, or NEVER if it is not scheduled."""
    bucket = cx.slots[slot * cx.width + BUCKET]
    return NEVER if bucket < 0 else cx.buckets[bucket * BUCKET_WORDS + TIME]


@kernel
def reschedule(cx: Context, slot: int, instant: int) -> None:
    """Put the key into the bucket of `instant`, out of any other; NEVER takes it out."""
    current = cx.slots[slot * cx.width + BUCKET]
    if current >= 0:
        if cx.buckets[current * BUCKET_WORDS + TIME] == instant:
            return
        before = cx.slots[slot * cx.width + PREV]
        after = cx.slots[slot * cx.width + NEXT]
        if before >= 0:
            cx.slots[before * cx.width + NEXT] = after
        else:
            cx.buckets[current * BUCKET_WORDS + HEAD] = after
        if after >= 0:
            cx.slots[after * cx.width + PREV] = before
        cx.buckets[current * BUCKET_WORDS + COUNT] -= 1
        cx.slots[slot * cx.width + BUCKET] = -1
    if instant == NEVER:
        return
    bucket = _bucket_of(cx, instant)
    head = cx.buckets[bucket * BUCKET_WORDS + HEAD]
    cx.slots[slot * cx.width + BUCKET] = bucket
    cx.slots[slot * cx.width + PREV] = -1
    cx.slots[slot * cx.width + NEXT] = head
    if head >= 0:
        cx.slots[head * cx.width + PREV] = slot
    cx.buckets[bucket * BUCKET_WORDS + HEAD] = slot
    cx.buckets[bucket * BUCKET_WORDS + COUNT] += 1


@kernel
def _bucket_of(cx: Context, instant: int) -> int:
    mask = cx.instants_mask
    place = _home(instant, mask)
    while cx.instants[place] != 0:
        bucket = cx.instants[place] - 1
        if cx.buckets[bucket * BUCKET_WORDS + TIME] == instant:
            return bucket
        place = (place + 1) & mask
    bucket = cx.meta[BUCKET_FREE]
    if bucket >= 0:
        cx.meta[BUCKET_FREE] = cx.buckets[bucket * BUCKET_WORDS + HEAD]
    else:
        bucket = cx.meta[BUCKET_TOP]
        cx.meta[BUCKET_TOP] += 1
    cx.instants[place] = bucket + 1
    cx.buckets[bucket * BUCKET_WORDS + TIME] = instant
    cx.buckets[bucket * BUCKET_WORDS + HEAD] = -1
    cx.buckets[bucket * BUCKET_WORDS + COUNT] = 0
    # Sift up.
    k = cx.meta[HEAP_LEN]
    cx.meta[HEAP_LEN] += 1
    while k > 0:
        parent = (k - 1) // 2
        if cx.buckets[cx.heap[parent] * BUCKET_WORDS + TIME] <= instant:
            break
        cx.heap[k] = cx.heap[parent]
        k = parent
    cx.heap[k] = bucket
    return bucket


@kernel
def earliest(cx: Context) -> int:
    """The bucket of the earliest instant at which a key is due, or -1; drops empty ones."""
    while cx.meta[HEAP_LEN] > 0:
        bucket = cx.heap[0]
        if cx.buckets[bucket * BUCKET_WORDS + HEAD] >= 0:
            return bucket
        _remove_earliest(cx, bucket)
    return -1


@kernel
def _remove_earliest(cx: Context, bucket: int) -> None:
    mask = cx.instants_mask
    hole = _home(cx.buckets[bucket * BUCKET_WORDS + TIME], mask)
    while cx.instants[hole] != bucket + 1:
        hole = (hole + 1) & mask
    place = hole
    while True:
        place = (place + 1) & mask
        entry = cx.instants[place]
        if entry == 0:
            break
        if (place - _home(cx.buckets[(entry - 1) * BUCKET_WORDS + TIME], mask)) & mask >= (
            place - hole
        ) & mask:
            cx.instants[hole] = entry
            hole = place
    cx.instants[hole] = 0
    cx.buckets[bucket * BUCKET_WORDS + HEAD] = cx.meta[BUCKET_FREE]
    cx.meta[BUCKET_FREE] = bucket
    # Sift the last entry down from the top.
    n = cx.meta[HEAP_LEN] - 1
    cx.meta[HEAP_LEN] = n
    last = cx.heap[n]
    instant = cx.buckets[last * BUCKET_WORDS + TIME]
    k = 0
    while 2 * k + 1 < n:
        child = 2 * k + 1
        if (
            child + 1 < n
            and cx.buckets[cx.heap[child + 1] * BUCKET_WORDS + TIME]
            < cx.buckets[cx.heap[child] * BUCKET_WORDS + TIME]
        ):
            child += 1
        if cx.buckets[cx.heap[child] * BUCKET_WORDS + TIME] >= instant:
            break
        cx.heap[k] = cx.heap[child]
        k = child
    cx.heap[k] = last


@kernel
def next_due(st: State, pg: Program) -> int:
    """The earliest instant at which a key is due, or NEVER."""
    cx = bind(st, pg)
    bucket = earliest(cx)
    return NEVER if bucket < 0 else cx.buckets[bucket * BUCKET_WORDS + TIME]


@kernel
def refill_instants(old: I64, new: I64, buckets: I64) -> None:
    """Copy every entry of the index of instants into a larger, empty one."""
    mask = len(new) - 1
    for entry in old:
        if entry != 0:
            place = _home(buckets[entry - 1, TIME], mask)
            while new[place] != 0:
                place = (place + 1) & mask
            new[place] = entry
