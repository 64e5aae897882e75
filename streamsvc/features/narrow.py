"""Whole numbers in as few bytes as their range needs.

>>> low, width, stored = narrow(np.array([1_000_000, 1_000_007, 1_000_300]))
>>> low, width, len(stored)
(1000000, 2, 6)
>>> widen(stored, 0, [3], [low], [width])[0].tolist()
[1000000, 1000007, 1000300]
>>> narrow(np.array([5, 5, 5]))
(5, 0, b'')
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import accumulate

import numpy as np

from streamsvc.columns import I64
from streamsvc.features.arrays import read_only
from streamsvc.features.kernels.widths import spread

__all__ = ["WIDTHS", "by_width", "narrow", "widen"]

WIDTHS = (0, 1, 2, 4, 8)
"""Bytes that a number can take: none if all are the same."""


def narrow(values: I64) -> tuple[int, int, bytes]:
    """The least number, in how many bytes each is stored, and how much greater than the least
    they are. Numbers that are too far apart are stored as they are, and 0 as the least."""
    low, high = (int(values.min()), int(values.max())) if len(values) else (0, 0)
    if low == high:
        return low, 0, b""
    for width in WIDTHS[1:-1]:
        if high - low < 1 << 8 * width:
            return low, width, (values - low).astype(f"<u{width}").tobytes()
    return 0, WIDTHS[-1], np.ascontiguousarray(values, "<i8").tobytes()


def by_width(widths: Iterable[int]) -> list[int]:
    """In which order columns of these widths are stored: so each lies on a boundary of its own."""
    return [i for i, _ in sorted(enumerate(widths), key=lambda found: -found[1])]


def widen(
    raw: bytes | memoryview,
    at: int,
    counts: Sequence[int],
    lows: Sequence[int],
    widths: Sequence[int],
) -> list[I64]:
    """Columns that `narrow` stored: `counts[i]` numbers of each, the widest from `raw[at]` on."""
    places = [0] * len(counts)
    for i in by_width(widths):
        places[i], at = at, at + counts[i] * widths[i]
    ends = list(accumulate(counts))
    out = np.empty(ends[-1], np.int64)
    stored = read_only(np.frombuffer(raw, np.uint8))
    spread(stored, tuple(places), tuple(counts), tuple(lows), tuple(widths), out)
    return [out[end - n : end] for n, end in zip(counts, ends, strict=True)]
