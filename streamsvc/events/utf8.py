"""UTF-8, compiled: for every format that checks its text byte by byte."""

from __future__ import annotations

from typing import Any

from streamsvc.events.jit import kernel

__all__ = ["sequence_end"]


@kernel
def sequence_end(a: Any, p: int, e: int) -> int:
    """Position behind the sequence of two to four bytes that begins at `p`, -1 if it is none.

    `a` is an array or a bare pointer; nothing at or past `e` is read. Unicode, table 3-7.
    """
    c = a[p]
    # The first continuation byte has bounds that rule out overlong forms, surrogates and everything
    # past U+10FFFF.
    low, high, more = 0x80, 0xBF, 0
    if 0xC2 <= c <= 0xDF:
        more = 1
    elif 0xE0 <= c <= 0xEF:
        more = 2
        if c == 0xE0:
            low = 0xA0
        elif c == 0xED:
            high = 0x9F
    elif 0xF0 <= c <= 0xF4:
        more = 3
        if c == 0xF0:
            low = 0x90
        elif c == 0xF4:
            high = 0x8F
    if more == 0 or p + more >= e or a[p + 1] < low or a[p + 1] > high:
        return -1
    if more > 1 and not 0x80 <= a[p + 2] <= 0xBF:
        return -1
    if more > 2 and not 0x80 <= a[p + 3] <= 0xBF:
        return -1
    return p + more + 1
