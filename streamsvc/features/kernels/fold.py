"""From tiles to values: what leaves the windows at an instant, and what is left inside.

The window is f(t) = agg{v : floor((t - W) / h) * h <= tau <= t}, so tile q, which starts at q * h,
is inside iff q >= floor((t - W) / h), that is until t = (q + 1) * h + W.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import inlined
from streamsvc.features.kernels.layout import AS_OF, NEVER
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
from streamsvc.features.kernels.rings import drop_oldest, lower_bound, ring_count, ring_of, tile_at

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
            # Longest first: what left it is dropped, and the others count from there.
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


@inlined
def fold(cx: Context, slot: int, out: Output, row: int) -> None:
    """Write the values of every feature, as of the last `settle`, into row `row`."""
    for group in range(cx.groups):
        for e in range(cx.first_entry[group], cx.first_entry[group + 1]):
            _fold_entry(cx, slot, group, e * ENTRY_WORDS, out, row)


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


# One pass over the tiles in registers, whatever is kept in them: cut up, it would be six passes.
@inlined
def _fold_entry(  # noqa: PLR0912, PLR0915
    cx: Context, slot: int, group: int, e: int, out: Output, row: int
) -> None:
    at_count = cx.entries[e + AT_COUNT]
    at_int_sum = cx.entries[e + AT_INT_SUM]
    at_sum = cx.entries[e + AT_SUM]
    at_moments = cx.entries[e + AT_MOMENTS]
    at_min = cx.entries[e + AT_MIN]
    at_max = cx.entries[e + AT_MAX]
    at_first = cx.entries[e + AT_FIRST]
    at_last = cx.entries[e + AT_LAST]
    is_float = cx.entries[e + KIND] == FLOATS
    stride = cx.stride[group]
    r = ring_of(cx, slot, group)
    count = int_sum = low = high = first = last = 0
    total = mean = squares = 0.0
    low_float = np.inf
    high_float = -np.inf
    i = ring_count(cx, slot, group)
    w0 = cx.first_window[group]
    # From the newest tile back: each window adds the tiles that the shorter ones have not seen.
    for w in range(w0, cx.first_window[group + 1]):
        while i > cx.cuts[w]:
            i -= 1
            tile = tile_at(cx, r, stride, i)
            n = cx.pool[tile + at_count]
            if n == 0:
                continue
            if at_int_sum >= 0:
                int_sum += cx.pool[tile + at_int_sum]
            if at_sum >= 0:
                total += cx.floats[tile + at_sum]
            if at_moments >= 0:
                # Chan, Golub & LeVeque 1979: merge of two sets of moments.
                delta = cx.floats[tile + at_moments] - mean
                share = n / (count + n)
                mean += delta * share
                squares += cx.floats[tile + at_moments + 1] + delta * delta * (count * share)
            if at_min >= 0:
                if is_float:
                    low_float = min(low_float, cx.floats[tile + at_min])
                elif count == 0 or cx.pool[tile + at_min] < low:
                    low = cx.pool[tile + at_min]
            if at_max >= 0:
                if is_float:
                    high_float = max(high_float, cx.floats[tile + at_max])
                elif count == 0 or cx.pool[tile + at_max] > high:
                    high = cx.pool[tile + at_max]
            # Tiles do not overlap in time: the oldest has the first value, the newest the last.
            if at_first >= 0:
                first = cx.pool[tile + at_first + 3]
            if at_last >= 0 and count == 0:
                last = cx.pool[tile + at_last + 3]
            count += n
        average = total / count if count > 0 else 0.0
        sums = Sums(
            count, int_sum, total, average, squares, low, high, low_float, high_float, first, last
        )
        run = cx.entries[e + RUN] + w - w0
        for o in range(cx.first_output[run], cx.first_output[run + 1]):
            function = cx.outputs[o * OUTPUT_WORDS + FUNCTION]
            at = cx.outputs[o * OUTPUT_WORDS + POSITION] * out.n + row
            _finish(function, is_float, sums, out, at)


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
        out.numbers[at] = sums.mean
    elif function in (STD, VAR):
        variance = sums.squares / (sums.values - 1)
        out.numbers[at] = np.sqrt(variance) if function == STD else variance
    elif is_float:
        number = sums.low_float if function == MIN else sums.high_float
        out.numbers[at] = sums.total if function == SUM else number
    else:
        value = sums.low if function == MIN else sums.high
        out.words[at] = sums.int_sum if function == SUM else value
