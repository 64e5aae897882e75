"""Numbers that were stored in few bytes (`features.narrow`), made 64 bits wide again.

One call for all columns of a batch: in a restore several threads do this at once, and each call
that gives the interpreter lock up waits to have it back.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.pointers import pointer, word_at

__all__ = ["ends_of", "spread"]


@kernel
def spread(
    raw: U8,
    at: tuple[int, ...],
    counts: tuple[int, ...],
    lows: tuple[int, ...],
    widths: tuple[int, ...],
    out: I64,
) -> None:
    """Fill `out` with the columns one after another; column i is stored from `raw[at[i]]` on."""
    data, place = pointer(raw), 0
    for column in range(len(at)):
        p, low, n = at[column], lows[column], counts[column]
        # Each width in a loop of its own: so the compiler handles many numbers at once.
        if widths[column] == 0:
            for i in range(n):
                out[place + i] = low
        elif widths[column] == 1:
            for i in range(n):
                out[place + i] = low + _number(data, p + i, 1)
        elif widths[column] == 2:
            for i in range(n):
                out[place + i] = low + _number(data, p + 2 * i, 2)
        elif widths[column] == 4:
            for i in range(n):
                out[place + i] = low + _number(data, p + 4 * i, 4)
        else:
            for i in range(n):
                out[place + i] = low + np.int64(word_at(data, p + 8 * i))
        place += n


@inlined
def _number(data: U8, p: int, width: int) -> int:
    number = np.int64(0)
    for byte in range(width):
        number |= np.int64(data[p + byte]) << np.int64(8 * byte)
    return number  # type: ignore[return-value]


@kernel
def ends_of(lengths: I64, total: int, ends: I64) -> bool:
    """Where pieces of these lengths end; False if they are not `total` long together."""
    end = 0
    for i in range(len(lengths)):
        if lengths[i] < 0 or lengths[i] > total - end:
            return False
        end += lengths[i]
        ends[i] = end
    return end == total
