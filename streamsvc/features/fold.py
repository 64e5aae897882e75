"""From tiles to values: what leaves the windows at an instant, and what is left inside.

A tile q of hop h is inside a window W at t iff (q + 1) * h + W > t, that is q >= floor((t - W) / h):
the window is f(t) = agg{v : floor((t - W) / h) * h <= tau <= t}.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import F64, I64, Bools
from streamsvc.features.jit import kernel
from streamsvc.features.layout import AS_OF, NEVER, State
from streamsvc.features.rings import drop_oldest, lower_bound, ring_count, tile_at
from streamsvc.features.spec import (
    AT_COUNT,
    AT_FIRST,
    AT_INT_SUM,
    AT_LAST,
    AT_MAX,
    AT_MIN,
    AT_MOMENTS,
    AT_SUM,
    COUNT,
    FIRST,
    FLOATS,
    KIND,
    LAST,
    MAX,
    MEAN,
    MIN,
    RUN,
    STD,
    SUM,
    Program,
)

__all__ = ["fold", "settle"]


@kernel
def settle(st: State, pg: Program, slot: int, t: int) -> int:
    """Drop the tiles that are outside every window at t, and raise the key's as_of to the newest
    exit. Leaves in `st.cuts`, per window, the oldest tile inside. Returns the earliest exit after
    t, or NEVER if no tile is left.
    """
    due = NEVER
    changed_at = st.slots[slot, AS_OF]
    for group in range(len(pg.hop)):
        hop = pg.hop[group]
        w0, w1 = pg.first_window[group], pg.first_window[group + 1]
        count = ring_count(st, slot, group)
        if count == 0:
            st.cuts[w0:w1] = 0
            continue
        for w in range(w1 - 1, w0 - 1, -1):
            length = pg.window[w]
            cut = lower_bound(st, pg, slot, group, (t - length) // hop)
            if cut > 0:
                q = st.pool[tile_at(st, pg, slot, group, cut - 1)] >> 1
                changed_at = max(changed_at, (q + 1) * hop + length)
            if cut < count:
                q = st.pool[tile_at(st, pg, slot, group, cut)] >> 1
                due = min(due, (q + 1) * hop + length)
            if w == w1 - 1 and cut > 0:
                drop_oldest(st, pg, slot, group, cut)
                count -= cut
                cut = 0
            st.cuts[w] = cut
            if count == 0:
                st.cuts[w0:w1] = 0
                break
    st.slots[slot, AS_OF] = changed_at
    return due


@kernel
def fold(
    st: State, pg: Program, slot: int, out: I64, out_float: F64, out_valid: Bools, row: int
) -> None:
    """Write the values of every feature, as of the last `settle`, into column `row`."""
    for group in range(len(pg.hop)):
        for e in range(pg.first_entry[group], pg.first_entry[group + 1]):
            _fold_entry(st, pg, slot, group, e, out, out_float, out_valid, row)


@kernel
def _fold_entry(
    st: State,
    pg: Program,
    slot: int,
    group: int,
    e: int,
    out: I64,
    out_float: F64,
    out_valid: Bools,
    row: int,
) -> None:
    pool = st.pool
    floats = pool.view(np.float64)
    entry = pg.entries[e]
    at_count = entry[AT_COUNT]
    at_int_sum = entry[AT_INT_SUM]
    at_sum = entry[AT_SUM]
    at_moments = entry[AT_MOMENTS]
    at_min = entry[AT_MIN]
    at_max = entry[AT_MAX]
    at_first = entry[AT_FIRST]
    at_last = entry[AT_LAST]
    is_float = entry[KIND] == FLOATS
    count = 0
    int_sum = 0
    total = 0.0
    mean = 0.0
    squares = 0.0
    low = 0
    high = 0
    first = 0
    last = 0
    low_float = np.inf
    high_float = -np.inf
    i = ring_count(st, slot, group)
    w0 = pg.first_window[group]
    # From the newest tile back: each window adds the tiles that the shorter ones have not seen.
    for w in range(w0, pg.first_window[group + 1]):
        while i > st.cuts[w]:
            i -= 1
            tile = tile_at(st, pg, slot, group, i)
            n = pool[tile + at_count]
            if n == 0:
                continue
            if at_int_sum >= 0:
                int_sum += pool[tile + at_int_sum]
            if at_sum >= 0:
                total += floats[tile + at_sum]
            if at_moments >= 0:
                # Chan, Golub & LeVeque 1979: merge of two sets of moments.
                delta = floats[tile + at_moments] - mean
                share = n / (count + n)
                mean += delta * share
                squares += floats[tile + at_moments + 1] + delta * delta * (count * share)
            if is_float:
                if at_min >= 0:
                    low_float = min(low_float, floats[tile + at_min])
                if at_max >= 0:
                    high_float = max(high_float, floats[tile + at_max])
            else:
                if at_min >= 0 and (count == 0 or pool[tile + at_min] < low):
                    low = pool[tile + at_min]
                if at_max >= 0 and (count == 0 or pool[tile + at_max] > high):
                    high = pool[tile + at_max]
            # Tiles do not overlap in time: the oldest has the first value, the newest the last.
            if at_first >= 0:
                first = pool[tile + at_first + 3]
            if at_last >= 0 and count == 0:
                last = pool[tile + at_last + 3]
            count += n
        run = entry[RUN] + w - w0
        for o in range(pg.first_output[run], pg.first_output[run + 1]):
            function = pg.outputs[o, 0]
            f = pg.outputs[o, 2]
            out_valid[f, row] = count > 0
            if function == COUNT:
                out[f, row] = count
                out_valid[f, row] = True
            elif count == 0:
                out[f, row] = 0
            elif function == SUM:
                if is_float:
                    out_float[f, row] = total
                else:
                    out[f, row] = int_sum
            elif function == MEAN:
                out_float[f, row] = mean if at_moments >= 0 else total / count
            elif function == MIN:
                if is_float:
                    out_float[f, row] = low_float
                else:
                    out[f, row] = low
            elif function == MAX:
                if is_float:
                    out_float[f, row] = high_float
                else:
                    out[f, row] = high
            elif function == FIRST:
                out[f, row] = first
            elif function == LAST:
                out[f, row] = last
            elif count < 2:
                out_valid[f, row] = False
                out[f, row] = 0
            else:
                variance = squares / (count - 1)
                out_float[f, row] = np.sqrt(variance) if function == STD else variance
