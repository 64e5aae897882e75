"""From tiles to values: what leaves the windows at an instant, and what is left inside.

The window is f(t) = agg{v : floor((t - W) / h) * h <= tau <= t}, so tile q, which starts at q * h,
is inside iff q >= floor((t - W) / h), that is until t = (q + 1) * h + W.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import AS_OF, HOLDS, NEVER, RING_BLOCK
from streamsvc.features.kernels.output import Output
from streamsvc.features.kernels.program import (
    AT_COUNT,
    AT_FIRST,
    AT_INT_SUM,
    AT_LAST,
    AT_MAX,
    AT_MIN,
    AT_MOMENTS,
    AT_SUM,
    COUNT,
    ENTRY_WORDS,
    FIRST,
    FLOATS,
    FUNCTION,
    KIND,
    LAST,
    MEAN,
    MIN,
    OUTPUT_WORDS,
    POSITION,
    RUN,
    STD,
    SUM,
    VAR,
)
from streamsvc.features.kernels.rings import (
    digest_of,
    drop_oldest,
    lower_bound,
    ring_count,
    ring_of,
    tile_at,
)

__all__ = ["fold", "settle"]


@inlined
def settle(cx: Context, slot: int, t: int) -> int:
    """Drop the tiles that are outside every window at t, and raise the key's as_of to the newest
    exit. Leaves in `cx.cuts`, per window, the oldest tile inside. Returns the earliest exit after
    t, or NEVER if no tile is left.
    """
    due = NEVER
    changed_at = cx.slots[slot * cx.width + AS_OF]
    for group in range(cx.groups):
        hop = cx.hop[group]
        stride = cx.stride[group]
        r = ring_of(cx, slot, group)
        w0, w1 = cx.first_window[group], cx.first_window[group + 1]
        for w in range(w1 - 1, w0 - 1, -1):
            length = cx.window[w]
            # Longest first: what left it is dropped, and the others count from there. Most often
            # nothing has left, which needs neither a search nor a division.
            cut = 0
            if ring_count(cx, slot, group) > 0:
                q = cx.pool[tile_at(cx, r, stride, 0)] >> 1
                if (q + 1) * hop + length <= t:
                    cut = lower_bound(cx, r, stride, (t - length) // hop)
            if cut > 0:
                q = cx.pool[tile_at(cx, r, stride, cut - 1)] >> 1
                changed_at = max(changed_at, (q + 1) * hop + length)
                if w == w1 - 1:
                    drop_oldest(cx, slot, group, cut)
                    cut = 0
            if cut < ring_count(cx, slot, group):
                q = cx.pool[tile_at(cx, r, stride, cut)] >> 1
                due = min(due, (q + 1) * hop + length)
            cx.cuts[w] = cut
    cx.slots[slot * cx.width + AS_OF] = changed_at
    return due


class Sums(NamedTuple):
    """Everything known about a column in a window so far."""

    values: int
    int_sum: int
    total: float
    mean: float
    squares: float
    """Sum of squared deviations from the mean."""
    low: int
    high: int
    low_float: float
    high_float: float
    first: int
    last: int


@inlined
def fold(cx: Context, slot: int, out: Output, row: int) -> None:
    """Write the values of every feature, as of the last `settle`, into row `row`."""
    for group in range(cx.groups):
        digest = _digest(cx, slot, group)
        for e in range(cx.first_entry[group], cx.first_entry[group + 1]):
            _fold_entry(cx, slot, group, e * ENTRY_WORDS, digest, out, row)


@inlined
def _digest(cx: Context, slot: int, group: int) -> int:
    """The digest of a ring, made if it does not hold; -1 for one that has none, or no use for it:
    of several windows, all but the longest begin in the middle of the ring.
    """
    if _windows(cx, group) > 1:
        return -1
    r = ring_of(cx, slot, group)
    digest = digest_of(cx, r, cx.stride[group])
    if digest >= 0 and cx.slots[r + RING_BLOCK] & HOLDS == 0:
        _make_digest(cx, slot, group, digest)
        cx.slots[r + RING_BLOCK] |= HOLDS
    return digest


@inlined
def _windows(cx: Context, group: int) -> int:
    return cx.first_window[group + 1] - cx.first_window[group]


@kernel
def _make_digest(cx: Context, slot: int, group: int, digest: int) -> None:
    older = ring_count(cx, slot, group) - 1
    for i in range(cx.first_entry[group], cx.first_entry[group + 1]):
        e = i * ENTRY_WORDS
        sums = _add_tiles(cx, slot, group, e, older, 0, _nothing())
        is_float = cx.entries[e + KIND] == FLOATS
        cx.pool[digest + cx.entries[e + AT_COUNT]] = sums.values
        a = cx.entries[e + AT_INT_SUM]
        if a >= 0:
            cx.pool[digest + a] = sums.int_sum
        a = cx.entries[e + AT_SUM]
        if a >= 0:
            cx.floats[digest + a] = sums.total
        a = cx.entries[e + AT_MOMENTS]
        if a >= 0:
            cx.floats[digest + a] = sums.mean
            cx.floats[digest + a + 1] = sums.squares
        a = cx.entries[e + AT_MIN]
        if a >= 0:
            _put(cx, digest + a, sums.low, sums.low_float, is_float)
        a = cx.entries[e + AT_MAX]
        if a >= 0:
            _put(cx, digest + a, sums.high, sums.high_float, is_float)
        a = cx.entries[e + AT_FIRST]
        if a >= 0:
            cx.pool[digest + a + 3] = sums.first
        a = cx.entries[e + AT_LAST]
        if a >= 0:
            cx.pool[digest + a + 3] = sums.last


@inlined
def _put(cx: Context, at: int, word: int, number: float, is_float: bool) -> None:
    if is_float:
        cx.floats[at] = number
    else:
        cx.pool[at] = word


@inlined
def _nothing() -> Sums:
    return Sums(0, 0, 0.0, 0.0, 0.0, 0, 0, np.inf, -np.inf, 0, 0)


@inlined
def _fold_entry(
    cx: Context, slot: int, group: int, e: int, digest: int, out: Output, row: int
) -> None:
    sums = _nothing()
    is_float = cx.entries[e + KIND] == FLOATS
    i = ring_count(cx, slot, group)
    w0 = cx.first_window[group]
    # From the newest tile back: each window adds the tiles that the shorter ones have not seen.
    for w in range(w0, cx.first_window[group + 1]):
        if _windows(cx, group) == 1:
            # In one order with and without a digest: a sum of floats is the same to the bit.
            newest = max(i - 1, 0)
            sums = _add_tiles(cx, slot, group, e, i, newest, sums)
            if digest >= 0:
                older = _add(cx, e, digest, _nothing())
            else:
                older = _add_tiles(cx, slot, group, e, newest, 0, _nothing())
            sums = _unite(sums, older)
        else:
            sums = _add_tiles(cx, slot, group, e, i, cx.cuts[w], sums)
            i = min(i, cx.cuts[w])
        run = cx.entries[e + RUN] + w - w0
        for o in range(cx.first_output[run], cx.first_output[run + 1]):
            function = cx.outputs[o * OUTPUT_WORDS + FUNCTION]
            at = cx.outputs[o * OUTPUT_WORDS + POSITION] * out.n + row
            _finish(function, is_float, sums, out, at)


@inlined
def _add_tiles(cx: Context, slot: int, group: int, e: int, high: int, low: int, sums: Sums) -> Sums:
    """Tiles [low, high) of a ring, from the newest back, to what is known of newer ones."""
    stride = cx.stride[group]
    r = ring_of(cx, slot, group)
    for i in range(high - 1, low - 1, -1):
        sums = _add(cx, e, tile_at(cx, r, stride, i), sums)
    return sums


@inlined
def _unite(newer: Sums, older: Sums) -> Sums:
    """What is known of newer tiles with what is known of older ones."""
    if older.values == 0:
        return newer
    if newer.values == 0:
        return older
    count = newer.values + older.values
    # As in `_add`.
    delta = older.mean - newer.mean
    share = older.values / count
    return Sums(
        count,
        newer.int_sum + older.int_sum,
        newer.total + older.total,
        newer.mean + delta * share,
        newer.squares + older.squares + delta * delta * (newer.values * share),
        min(newer.low, older.low),
        max(newer.high, older.high),
        min(newer.low_float, older.low_float),
        max(newer.high_float, older.high_float),
        older.first,
        newer.last,
    )


# In registers, whatever is kept in a tile: cut up, it would be six passes.
@inlined
def _add(cx: Context, e: int, tile: int, sums: Sums) -> Sums:
    """A tile to what is known of newer ones."""
    n = cx.pool[tile + cx.entries[e + AT_COUNT]]
    if n == 0:
        return sums
    count, int_sum, total, mean, squares, low, high, low_float, high_float, first, last = sums
    at = cx.entries[e + AT_INT_SUM]
    if at >= 0:
        int_sum += cx.pool[tile + at]
    at = cx.entries[e + AT_SUM]
    if at >= 0:
        total += cx.floats[tile + at]
    at = cx.entries[e + AT_MOMENTS]
    if at >= 0:
        # Chan, Golub & LeVeque 1979: merge of two sets of moments.
        delta = cx.floats[tile + at] - mean
        share = n / (count + n)
        mean += delta * share
        squares += cx.floats[tile + at + 1] + delta * delta * (count * share)
    is_float = cx.entries[e + KIND] == FLOATS
    at = cx.entries[e + AT_MIN]
    if at >= 0:
        if is_float:
            low_float = min(low_float, cx.floats[tile + at])
        elif count == 0 or cx.pool[tile + at] < low:
            low = cx.pool[tile + at]
    at = cx.entries[e + AT_MAX]
    if at >= 0:
        if is_float:
            high_float = max(high_float, cx.floats[tile + at])
        elif count == 0 or cx.pool[tile + at] > high:
            high = cx.pool[tile + at]
    # Tiles do not overlap in time: the oldest has the first value, the newest the last.
    at = cx.entries[e + AT_FIRST]
    if at >= 0:
        first = cx.pool[tile + at + 3]
    at = cx.entries[e + AT_LAST]
    if at >= 0 and count == 0:
        last = cx.pool[tile + at + 3]
    return Sums(
        count + n, int_sum, total, mean, squares, low, high, low_float, high_float, first, last
    )


@inlined
def _finish(function: int, is_float: bool, sums: Sums, out: Output, at: int) -> None:
    """One feature's value of what a window holds."""
    needed = 0 if function == COUNT else 2 if function in (STD, VAR) else 1
    out.valid[at] = sums.values >= needed
    if sums.values < needed:
        out.words[at] = 0
    elif function == COUNT:
        out.words[at] = sums.values
    elif function == FIRST:
        out.words[at] = sums.first
    elif function == LAST:
        out.words[at] = sums.last
    elif function == MEAN:
        # Not the running mean of the moments: a sum of whole numbers is the same in any order.
        out.numbers[at] = sums.total / sums.values
    elif function in (STD, VAR):
        variance = sums.squares / (sums.values - 1)
        out.numbers[at] = np.sqrt(variance) if function == STD else variance
    elif is_float:
        number = sums.low_float if function == MIN else sums.high_float
        out.numbers[at] = sums.total if function == SUM else number
    else:
        value = sums.low if function == MIN else sums.high
        out.words[at] = sums.int_sum if function == SUM else value
