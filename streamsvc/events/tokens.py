"""The smallest parts of JSON, compiled: white space, keys, strings, literals, numbers.

`a` is the data, `p` a position in it and `e` where the record ends; nothing at or past `e` is read.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numba import njit

from streamsvc.columns import U8
from streamsvc.events.floats import MAX_POWER

__all__ = [
    "FRACTION",
    "NOT_A_NUMBER",
    "WHOLE",
    "digit",
    "literal",
    "match",
    "number",
    "skip_space",
    "string_end",
]

NOT_A_NUMBER: Final = 0
WHOLE: Final = 1
FRACTION: Final = 2
"""What a number token is; FRACTION has a point or an exponent."""

_MAX_SIGNIFICAND: Final = 10**17
"""A digit is appended only below this, so that 18 digits are read and 64 bits never overflow."""


@njit(cache=True, nogil=True, error_model="numpy")
def digit(a: U8, p: int) -> int:
    """Value of the digit at `p`, as a signed 64-bit integer."""
    value: Any = np.int64(a[p]) - 48
    return value


@njit(cache=True, nogil=True, error_model="numpy")
def skip_space(a: U8, p: int, e: int) -> int:
    """Position of the first byte from `p` on that is not white space, or `e`."""
    while p < e and (a[p] == 32 or a[p] == 10 or a[p] == 13 or a[p] == 9):
        p += 1
    return p


@njit(cache=True, nogil=True, error_model="numpy")
def match(a: U8, p: int, e: int, keys: U8, start: int, end: int) -> int:
    """Position of the closing quote if the key at `p` is `keys[start:end]`, else -1."""
    q = p + end - start
    if q >= e or a[q] != 34:
        return -1
    for k in range(start, end):
        if a[p] != keys[k]:
            return -1
        p += 1
    return q


@njit(cache=True, nogil=True, error_model="numpy")
def literal(a: U8, p: int, e: int, c0: int, c1: int, c2: int, c3: int) -> int:
    """Position behind these four bytes, -1 if they are not at `p`."""
    if p + 4 > e or a[p] != c0 or a[p + 1] != c1 or a[p + 2] != c2 or a[p + 3] != c3:
        return -1
    return p + 4


@njit(cache=True, nogil=True, error_model="numpy")
def string_end(a: U8, p: int, e: int) -> int:  # noqa: PLR0912
    """Position of the quote that closes the string at `p`.

    -1 if there is none, or the string has an escape, a control character or invalid UTF-8.
    """
    while p < e:
        c = a[p]
        if c == 34:
            return p
        if c < 32 or c == 92:
            return -1
        if c < 128:
            p += 1
            continue
        # The first continuation byte has bounds that rule out overlong forms, surrogates and
        # everything past U+10FFFF (Unicode, table 3-7).
        low, high = 0x80, 0xBF
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
        else:
            return -1
        if p + more >= e or a[p + 1] < low or a[p + 1] > high:
            return -1
        for q in range(p + 2, p + more + 1):
            if a[q] < 0x80 or a[q] > 0xBF:
                return -1
        p += more + 1
    return -1


@njit(cache=True, nogil=True, error_model="numpy")
def number(a: U8, p: int, e: int) -> tuple[int, int, int, int]:  # noqa: PLR0911, PLR0912
    """The number at `p`: position behind it, what it is, its significand without sign, its power.

    Not a number is also one with more than 18 digits or a power beyond the table.
    """
    if a[p] == 45:
        p += 1
    if p >= e or a[p] < 48 or a[p] > 57:
        return p, NOT_A_NUMBER, 0, 0
    significand = digit(a, p)
    p += 1
    if significand > 0:  # a leading zero stands alone; a digit behind it is then no delimiter
        while p < e and a[p] >= 48 and a[p] <= 57:
            if significand >= _MAX_SIGNIFICAND:
                return p, NOT_A_NUMBER, 0, 0
            significand = significand * 10 + digit(a, p)
            p += 1
    token = WHOLE
    power = 0
    if p < e and a[p] == 46:
        token = FRACTION
        p += 1
        digits = p
        while p < e and a[p] >= 48 and a[p] <= 57:
            if significand >= _MAX_SIGNIFICAND:
                return p, NOT_A_NUMBER, 0, 0
            significand = significand * 10 + digit(a, p)
            p += 1
        if p == digits:
            return p, NOT_A_NUMBER, 0, 0
        power = digits - p
    if p < e and (a[p] == 101 or a[p] == 69):
        token = FRACTION
        p += 1
        negative = p < e and a[p] == 45
        if p < e and (a[p] == 45 or a[p] == 43):
            p += 1
        digits = p
        exponent = 0
        while p < e and a[p] >= 48 and a[p] <= 57:
            if exponent > MAX_POWER:
                return p, NOT_A_NUMBER, 0, 0
            exponent = exponent * 10 + digit(a, p)
            p += 1
        if p == digits:
            return p, NOT_A_NUMBER, 0, 0
        power += -exponent if negative else exponent
    return p, token, significand, power
