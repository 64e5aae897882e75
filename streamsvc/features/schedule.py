"""When keys fall due: one bucket per instant, keys linked in and out in constant time.

Exits of tiles lie on the hop grid, so instants are few (at most one per tile boundary ahead) while
keys are many: a heap orders the instants only, and a burst of a hundred thousand keys at one
boundary is a list walked as far as the caller asks for. A key is in at most one bucket.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64
from streamsvc.features.jit import kernel
from streamsvc.features.layout import (
    BUCKET,
    BUCKET_FREE,
    BUCKET_TOP,
    COUNT,
    HEAD,
    HEAP_LEN,
    NEVER,
    NEXT,
    PREV,
    TIME,
    State,
)

__all__ = ["due_of", "earliest", "refill_instants", "reschedule"]


@kernel
def _home(instant: int, mask: int) -> int:
    h = np.uint64(instant) * np.uint64(0x9E3779B97F4A7C15)
    return np.int64(h >> np.uint64(32)) & mask  # type: ignore[return-value]


@kernel
def due_of(st: State, slot: int) -> int:
    """When the key falls due, or NEVER if it is not scheduled."""
    bucket = st.slots[slot, BUCKET]
    return NEVER if bucket < 0 else st.buckets[bucket, TIME]


@kernel
def reschedule(st: State, slot: int, instant: int) -> None:
    """Put the key into the bucket of `instant`, out of any other; NEVER takes it out."""
    current = st.slots[slot, BUCKET]
    if current >= 0:
        if st.buckets[current, TIME] == instant:
            return
        before = st.slots[slot, PREV]
        after = st.slots[slot, NEXT]
        if before >= 0:
            st.slots[before, NEXT] = after
        else:
            st.buckets[current, HEAD] = after
        if after >= 0:
            st.slots[after, PREV] = before
        st.buckets[current, COUNT] -= 1
        st.slots[slot, BUCKET] = -1
    if instant == NEVER:
        return
    bucket = _bucket_of(st, instant)
    head = st.buckets[bucket, HEAD]
    st.slots[slot, BUCKET] = bucket
    st.slots[slot, PREV] = -1
    st.slots[slot, NEXT] = head
    if head >= 0:
        st.slots[head, PREV] = slot
    st.buckets[bucket, HEAD] = slot
    st.buckets[bucket, COUNT] += 1


@kernel
def _bucket_of(st: State, instant: int) -> int:
    mask = len(st.instants) - 1
    place = _home(instant, mask)
    while st.instants[place] != 0:
        bucket = st.instants[place] - 1
        if st.buckets[bucket, TIME] == instant:
            return bucket
        place = (place + 1) & mask
    bucket = st.meta[BUCKET_FREE]
    if bucket >= 0:
        st.meta[BUCKET_FREE] = st.buckets[bucket, HEAD]
    else:
        bucket = st.meta[BUCKET_TOP]
        st.meta[BUCKET_TOP] += 1
    st.instants[place] = bucket + 1
    st.buckets[bucket, TIME] = instant
    st.buckets[bucket, HEAD] = -1
    st.buckets[bucket, COUNT] = 0
    # Sift up.
    k = st.meta[HEAP_LEN]
    st.meta[HEAP_LEN] += 1
    while k > 0:
        parent = (k - 1) // 2
        if st.buckets[st.heap[parent], TIME] <= instant:
            break
        st.heap[k] = st.heap[parent]
        k = parent
    st.heap[k] = bucket
    return bucket


@kernel
def earliest(st: State) -> int:
    """The bucket of the earliest instant at which a key is due, or -1; drops empty ones."""
    while st.meta[HEAP_LEN] > 0:
        bucket = st.heap[0]
        if st.buckets[bucket, HEAD] >= 0:
            return bucket
        _remove_earliest(st, bucket)
    return -1


@kernel
def _remove_earliest(st: State, bucket: int) -> None:
    mask = len(st.instants) - 1
    hole = _home(st.buckets[bucket, TIME], mask)
    while st.instants[hole] != bucket + 1:
        hole = (hole + 1) & mask
    place = hole
    while True:
        place = (place + 1) & mask
        entry = st.instants[place]
        if entry == 0:
            break
        if (place - _home(st.buckets[entry - 1, TIME], mask)) & mask >= (place - hole) & mask:
            st.instants[hole] = entry
            hole = place
    st.instants[hole] = 0
    st.buckets[bucket, HEAD] = st.meta[BUCKET_FREE]
    st.meta[BUCKET_FREE] = bucket
    # Sift the last entry down from the top.
    n = st.meta[HEAP_LEN] - 1
    st.meta[HEAP_LEN] = n
    last = st.heap[n]
    instant = st.buckets[last, TIME]
    k = 0
    while 2 * k + 1 < n:
        child = 2 * k + 1
        if (
            child + 1 < n
            and st.buckets[st.heap[child + 1], TIME] < st.buckets[st.heap[child], TIME]
        ):
            child += 1
        if st.buckets[st.heap[child], TIME] >= instant:
            break
        st.heap[k] = st.heap[child]
        k = child
    st.heap[k] = last


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
