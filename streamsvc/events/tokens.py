"""The smallest parts of JSON, compiled: white space, keys, strings, literals, numbers.

`a` is the data, `p` a position in it and `e` where the record ends; nothing at or past `e` is read.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from streamsvc.columns import U8
from streamsvc.events.jit import inlined, kernel
from streamsvc.events.utf8 import sequence_end

__all__ = [
    "FRACTION",
    "NOT_A_NUMBER",
    "WHOLE",
    "at",
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

_MAX_DIGITS: Final = 18
"""So many digits fit 64 bits whatever they are."""
_MAX_EXPONENT: Final = 999
_PLAIN: Final = np.array([32 <= c < 128 and c not in {34, 92} for c in range(256)])
"""Bytes that stand for themselves in a string: ASCII but control characters, quote, backslash."""


@kernel
def at(a: U8, p: int) -> int:
    """The byte at `p`, which is not negative: spares the test for a place counted from the end."""
    value: Any = a[np.uint64(p)]
    return value


@kernel
def digit(a: U8, p: int) -> int:
    """Value of the digit at `p`, as a signed 64-bit integer."""
    value: Any = np.int64(at(a, p)) - 48
    return value


@kernel
def skip_space(a: U8, p: int, e: int) -> int:
    """Position of the first byte from `p` on that is not white space, or `e`."""
    while p < e and at(a, p) in (32, 10, 13, 9):
        p += 1
    return p


@kernel
def match(a: U8, p: int, e: int, keys: U8, start: int, end: int) -> int:
    """Position of the closing quote if the key at `p` is `keys[start:end]`, else -1."""
    q = p + end - start
    if q >= e or at(a, q) != 34:
        return -1
    for k in range(start, end):
        if at(a, p) != at(keys, k):
            return -1
        p += 1
    return q


@kernel
def literal(a: U8, p: int, e: int, c0: int, c1: int, c2: int, c3: int) -> int:
    """Position behind these four bytes, -1 if they are not at `p`."""
    if p + 4 > e or at(a, p) != c0 or at(a, p + 1) != c1:
        return -1
    if at(a, p + 2) != c2 or at(a, p + 3) != c3:
        return -1
    return p + 4


@inlined
def string_end(a: U8, p: int, e: int) -> int:
    """Position of the quote that closes the string at `p`.

    -1 if there is none, or the string has an escape, a control character or invalid UTF-8.
    """
    closed = -1
    while True:
        while p < e and _PLAIN[at(a, p)]:
            p += 1
        if p >= e:
            break
        c = at(a, p)
        if c == 34:
            closed = p
            break
        p = sequence_end(a, p, e)
        if p < 0:
            break
    return closed


@inlined
def number(a: U8, p: int, e: int) -> tuple[int, int, int, int]:
    """The number at `p`: position behind it, what it is, its significand without sign, its power.

    Not a number is also one with more than 18 digits, leading zeros counted.
    """
    if at(a, p) == 45:
        p += 1
    first = p
    significand: Any = np.int64(0)
    while p < e and 48 <= at(a, p) <= 57:
        significand = significand * 10 + digit(a, p)
        p += 1
    digits = p - first
    token = WHOLE
    power = 0
    if digits == 0 or (digits > 1 and at(a, first) == 48):
        token = NOT_A_NUMBER
    elif p < e and at(a, p) == 46:
        token = FRACTION
        p += 1
        first = p
        while p < e and 48 <= at(a, p) <= 57:
            significand = significand * 10 + digit(a, p)
            p += 1
        power = first - p
        digits -= power
        if power == 0:
            token = NOT_A_NUMBER
    if digits > _MAX_DIGITS:
        token = NOT_A_NUMBER
    if token != NOT_A_NUMBER and p < e and at(a, p) in (101, 69):
        token = FRACTION
        p += 1
        negative = p < e and at(a, p) == 45
        if p < e and at(a, p) in (43, 45):
            p += 1
        first = p
        exponent = 0
        while p < e and 48 <= at(a, p) <= 57:
            exponent = min(exponent * 10 + digit(a, p), _MAX_EXPONENT)
            p += 1
        if p == first:
            token = NOT_A_NUMBER
        power += -exponent if negative else exponent
    return p, token, significand, power
