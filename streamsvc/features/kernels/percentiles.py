"""Percentiles: DDSketch (Masson, Rim & Lee, VLDB 2019), collapsing lowest buckets.

A bucket is what numbers share in sign, exponent and the six leading bits of the mantissa: 64 equal
parts of every power of two, the paper's interpolated mapping. Numbers of a bucket [l, h) are told
as 2lh / (l + h), which is within (h - l) / (h + l) <= 1/129 of each of them. The number of a bucket
is read off the bits of the float, so that it is the same on every machine. Numbers below 2^-1028
are 0, and infinity has a bucket of its own.

Payload: a word with the number of buckets, then a word a bucket, its number << 46 | count, sorted.
Of more than MOST_BUCKETS the lowest is added to the one above it. Whatever the order of numbers,
this leaves the greatest buckets there ever were, with all that is below in the lowest of them, so
the payload depends on the numbers alone.

A union is made in the scratch: a counter a bucket, a bit each to find those in use, and a bit for
each word of those, because between nought and one lie a thousand of them.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64
from streamsvc.features.kernels.bits import float_of, trailing_zeros
from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import UNIT
from streamsvc.features.kernels.payload import class_at, place_of, renew
from streamsvc.features.kernels.pool import class_of

__all__ = [
    "COUNTS",
    "MOST_BUCKETS",
    "SCRATCH",
    "SHIFT",
    "add_buckets",
    "add_number",
    "bucket_of",
    "clear",
    "first_word",
    "last_word",
    "percentile",
    "unite",
]

MOST_BUCKETS = 2047
"""With the header 16 KiB. 64 buckets a power of two: a ratio of 2^32 between greatest and least."""
_LEAST_CLASS = 0
SHIFT = 46
COUNTS = (1 << SHIFT) - 1
_ZERO = 1 << 17
"""Buckets are -2^17 < b < 2^17; in the scratch they start at 0."""
_SEEN = 2 * _ZERO // 64 // 64
"""Where the bits of buckets start, behind the bits of their words."""
_COUNTERS = _SEEN + 2 * _ZERO // 64
SCRATCH = _COUNTERS + 2 * _ZERO
_MANTISSA = 63


@inlined
def bucket_of(bits: int) -> int:
    """The bucket of a number that is no NaN, from its bits."""
    magnitude = (bits & 0x7FFFFFFFFFFFFFFF) >> SHIFT
    return -magnitude if bits < 0 else magnitude


@kernel
def add_number(cx: Context, at: int, bucket: int) -> bool:
    """Count a number in the payload at handle `at`; False if the pool must grow first."""
    if cx.pool[at] == 0:
        if not renew(cx, at, _LEAST_CLASS, 0):
            return False
        cx.pool[place_of(cx, at)] = 0
    place = place_of(cx, at)
    n = cx.pool[place]
    low, high = 1, n + 1
    while low < high:
        middle = (low + high) >> 1
        if cx.pool[place + middle] >> SHIFT < bucket:
            low = middle + 1
        else:
            high = middle
    if low <= n and cx.pool[place + low] >> SHIFT == bucket:
        cx.pool[place + low] += 1
        return True
    if n == MOST_BUCKETS:
        if low == 1:
            cx.pool[place + 1] += 1
            return True
        _collapse(cx, place, low, bucket)
        return True
    if n + 1 == UNIT << class_at(cx, at):
        if not renew(cx, at, class_at(cx, at) + 1, n + 1):
            return False
        place = place_of(cx, at)
    for i in range(place + n, place + low - 1, -1):
        cx.pool[i + 1] = cx.pool[i]
    cx.pool[place + low] = (bucket << SHIFT) + 1
    cx.pool[place] = n + 1
    return True


@kernel
def _collapse(cx: Context, place: int, low: int, bucket: int) -> None:
    """Make room below position `low` for a new bucket by adding the lowest to the one above it."""
    lowest = cx.pool[place + 1] & COUNTS
    for i in range(place + 1, place + low - 1):
        cx.pool[i] = cx.pool[i + 1]
    cx.pool[place + low - 1] = (bucket << SHIFT) + 1
    cx.pool[place + 1] += lowest


@kernel
def add_buckets(cx: Context, at: int, words: I64, word: int) -> bool:
    """Add the payload from `words[word]` on to that at handle `at`; False, with nothing changed, if
    the pool must grow first.
    """
    here = 0 if cx.pool[at] == 0 else place_of(cx, at)
    i = 0 if cx.pool[at] == 0 else cx.pool[here]
    j = words[word]
    # From the greatest bucket down, as `_collapse` would leave them.
    joined = np.empty(min(i + j, MOST_BUCKETS), np.int64)
    n = 0
    while i > 0 or j > 0:
        ours = cx.pool[here + i] if i > 0 else 0
        theirs = words[word + j] if j > 0 else 0
        if j == 0 or (i > 0 and ours >> SHIFT > theirs >> SHIFT):
            entry = ours
            i -= 1
        elif i == 0 or theirs >> SHIFT > ours >> SHIFT:
            entry = theirs
            j -= 1
        else:
            entry = ours + (theirs & COUNTS)
            i -= 1
            j -= 1
        if n < MOST_BUCKETS:
            joined[n] = entry
            n += 1
        else:
            joined[n - 1] += entry & COUNTS
    size_class = class_of(n + 1)
    if (cx.pool[at] == 0 or class_at(cx, at) != size_class) and not renew(cx, at, size_class, 0):
        return False
    place = place_of(cx, at)
    cx.pool[place] = n
    for k in range(n):
        cx.pool[place + 1 + k] = joined[n - 1 - k]
    return True


@kernel
def unite(cx: Context, at: int) -> int:
    """Add the payload at handle `at` to the union; how many numbers it holds."""
    if cx.pool[at] == 0:
        return 0
    place = place_of(cx, at)
    total = 0
    for i in range(place + 1, place + 1 + cx.pool[place]):
        entry = cx.pool[i]
        bucket = (entry >> SHIFT) + _ZERO
        total += entry & COUNTS
        cx.scratch[bucket >> 12] |= 1 << (bucket >> 6 & 63)
        cx.scratch[_SEEN + (bucket >> 6)] |= 1 << (bucket & 63)
        cx.scratch[_COUNTERS + bucket] += entry & COUNTS
    return total


@inlined
def first_word(cx: Context, at: int) -> int:
    """The word of bits with the lowest bucket of a payload."""
    return ((cx.pool[place_of(cx, at) + 1] >> SHIFT) + _ZERO) >> 6


@inlined
def last_word(cx: Context, at: int) -> int:
    """The word of bits with the greatest bucket of a payload."""
    place = place_of(cx, at)
    return ((cx.pool[place + cx.pool[place]] >> SHIFT) + _ZERO) >> 6


@inlined
def _next_word(cx: Context, word: int) -> int:
    """The first word of bits from `word` on that is not 0; there must be one."""
    k = word >> 6
    bits = cx.scratch[k] & (-1 << (word & 63))
    while bits == 0:
        k += 1
        bits = cx.scratch[k]
    return k << 6 | trailing_zeros(bits)


@kernel
def percentile(cx: Context, percent: int, total: int, first: int) -> float:
    """The number of rank 1 + floor(percent (total - 1) / 100) in the union, within 1/129.

    `first` is a word of bits at or before the first that is not 0.
    """
    left = percent * (total - 1) // 100
    word = _next_word(cx, first)
    while True:
        bits = cx.scratch[_SEEN + word]
        while bits != 0:
            bucket = word << 6 | trailing_zeros(bits)
            left -= cx.scratch[_COUNTERS + bucket]
            if left < 0:
                return _number(bucket - _ZERO)
            bits &= bits - 1
        word = _next_word(cx, word + 1)


@kernel
def clear(cx: Context, first: int, last: int) -> None:
    """Empty the union, whose lowest and greatest buckets are in these words of bits."""
    word = first
    while True:
        bits = cx.scratch[_SEEN + word]
        while bits != 0:
            cx.scratch[_COUNTERS + (word << 6 | trailing_zeros(bits))] = 0
            bits &= bits - 1
        cx.scratch[_SEEN + word] = 0
        if word == last:
            break
        word = _next_word(cx, word + 1)
    for k in range(first >> 6, (last >> 6) + 1):
        cx.scratch[k] = 0


@kernel
def _number(bucket: int) -> float:
    magnitude = abs(bucket)
    part = magnitude & _MANTISSA
    number = float_of(magnitude << SHIFT)
    if magnitude == 0 or number == np.inf:
        return number if bucket >= 0 else -number
    number *= 2.0 * (65 + part) / (129 + 2 * part)
    return number if bucket > 0 else -number
