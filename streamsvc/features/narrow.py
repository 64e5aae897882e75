"""Whole numbers in as few bytes as their range needs.

>>> low, width, stored = narrow(np.array([1_000_000, 1_000_007, 1_000_300]))
>>> low, width, len(stored)
(1000000, 2, 6)
>>> widen(stored, 0, 3, low, width).tolist()
[1000000, 1000007, 1000300]
>>> narrow(np.array([5, 5, 5]))
(5, 0, b'')
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64

__all__ = ["WIDTHS", "narrow", "widen"]

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


def widen(raw: bytes | memoryview, at: int, n: int, low: int, width: int) -> I64:
    """The `n` numbers that `narrow` stored in the bytes from `raw[at]` on."""
    if width == 0:
        return np.full(n, low)
    stored = np.frombuffer(raw, f"<u{width}" if width < WIDTHS[-1] else "<i8", n, at)
    return np.add(stored, np.int64(low), dtype=np.int64)
