"""Program: a spec as small integer arrays, so that every view runs the same machine code.

Windows with the same hop share a *group* of tiles. Per group and aggregated column there is one
*entry*: the accumulators that the group's functions need, and no others.
"""

from __future__ import annotations

from typing import NamedTuple

from streamsvc.columns import I64

__all__ = ["FUNCTIONS", "Program"]

FUNCTIONS = ("count", "sum", "mean", "min", "max", "std", "var", "first", "last")
COUNT, SUM, MEAN, MIN, MAX, STD, VAR, FIRST, LAST = range(9)

# What a column holds, to a kernel: nothing but its nulls, int64, float64, or text (a word is where
# it starts, shifted by TEXT_BITS, and how long it is).
NULLS, INTS, FLOATS, TEXTS = range(4)
TEXT_BITS = 28

# Accumulators of an entry behind its count, in this order.
HAS_INT_SUM = 1
HAS_SUM = 2
HAS_MOMENTS = 4
HAS_MIN = 8
HAS_MAX = 16
HAS_FIRST = 32
HAS_LAST = 64
WORDS = (
    (HAS_INT_SUM, 1),
    (HAS_SUM, 1),
    (HAS_MOMENTS, 2),
    (HAS_MIN, 1),
    (HAS_MAX, 1),
    (HAS_FIRST, 4),
    (HAS_LAST, 4),
)

# entries
COLUMN, KIND, AT_COUNT, AT_INT_SUM, AT_SUM, AT_MOMENTS = range(6)
AT_MIN, AT_MAX, AT_FIRST, AT_LAST, RUN = range(6, 11)
ENTRY_WORDS = 11

# Accumulators beside the entries: sketches, text, and the latest row. Those of AT_HANDLE >= 0 have
# a payload.
DISTINCT, PERCENTILES, TEXT_MIN, TEXT_MAX, TEXT_FIRST, TEXT_LAST, LATEST = range(7)
EXTRA_WIDTH = (1, 1, 1, 1, 4, 4, 5)
EX_KIND, EX_COLUMN, EX_TYPE, EX_AT, EX_HANDLE, EX_RUN = range(6)
EXTRA_WORDS = 6

# outputs; the function of an output of PERCENTILES is its percent
FUNCTION, POSITION = range(2)
OUTPUT_WORDS = 2


class Program(NamedTuple):
    """The spec as kernels read it; all int64."""

    hop: I64
    """Per group."""
    stride: I64
    """Per group: words of a tile, header included."""
    first_window: I64
    """Per group, and the end: its windows in `window`, shortest first."""
    first_entry: I64
    """Per group, and the end: its rows of `entries`."""
    window: I64
    entries: I64
    """Per entry: column, kind, word offsets in the tile (-1: not kept), first run."""
    first_extra: I64
    """Per group, and the end: its rows of `extras`."""
    extras: I64
    """Per extra: which, column and its kind, word offsets of it and of its handle (-1: none), first
    run."""
    first_output: I64
    """Per run (entry or extra x window of its group), and the end: its rows of `outputs`."""
    outputs: I64
    """Per feature: function, position in sorted order."""
    span: I64
    """Shortest and longest window."""
