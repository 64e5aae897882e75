"""Decimal → the nearest double, exactly as `float()` reads it, compiled.

Most numbers need one exact multiplication or division (Clinger 1990: a significand up to 2**53 and
a power of ten up to 22). The others, such as the 16 and 17 digits that a double is printed with,
take the algorithm of Eisel and Lemire (Lemire, "Number Parsing at a Gigabyte per Second", 2021): a
128-bit product with a truncated power of ten, which either proves its rounding right or says that
it cannot, and then the general decoder reads the number.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsvc.events.jit import kernel

__all__ = ["MAX_POWER", "to_double"]

MAX_POWER: Final = 64
"""Powers of ten from -64 to 64 are read here; the result is always a normal double."""


def _powers() -> NDArray[np.uint64]:
    """The leading 128 bits, truncated, of 10**q as (high, low); shape (2 * MAX_POWER + 1, 2)."""
    rows = []
    for q in range(-MAX_POWER, MAX_POWER + 1):
        if q >= 0:
            power = 10**q
            shift = 128 - power.bit_length()
            bits = power << shift if shift >= 0 else power >> -shift
        else:
            divisor = 10**-q
            bits = (1 << (127 + divisor.bit_length())) // divisor
            bits >>= bits.bit_length() - 128
        rows.append((bits >> 64, bits & (2**64 - 1)))
    return np.array(rows, np.uint64)


_POWERS: Final = _powers()
_EXACT: Final = 10.0 ** np.arange(23)
_EXACT_SIGNIFICAND: Final = 2**53
_EXACT_POWER: Final = 22


@kernel
def to_double(significand: int, power: int) -> tuple[float, bool]:
    """`significand * 10**power`, rounded to nearest even, and whether that is proven.

    0 <= significand < 10**18.
    """
    if significand == 0:
        return 0.0, True
    if significand <= _EXACT_SIGNIFICAND and -_EXACT_POWER <= power <= _EXACT_POWER:
        if power >= 0:
            return significand * _EXACT[power], True
        return significand / _EXACT[-power], True
    if power == 0:
        return float(significand), True
    if power < -MAX_POWER or power > MAX_POWER:
        return 0.0, False
    return _eisel_lemire(np.uint64(significand), power)


@kernel
def _eisel_lemire(significand: np.uint64, power: int) -> tuple[float, bool]:
    one = np.uint64(1)
    low9 = np.uint64(0x1FF)
    zeros = 0
    m = significand
    while m < np.uint64(1 << 63):
        m <<= one
        zeros += 1
    # 217706 / 2**16 is log2(10); 64 for the significand's width, 1023 for the bias.
    exponent = ((217706 * power) >> 16) + 64 + 1023 - zeros
    row = power + MAX_POWER
    high, low = _multiply(m, _POWERS[row, 0])
    if high & low9 == low9 and low + m < m:
        # The truncated part of the power could carry into the bits that decide: add it.
        y_high, y_low = _multiply(m, _POWERS[row, 1])
        merged = low + y_high
        if merged < low:
            high += one
        if high & low9 == low9 and merged + one == np.uint64(0) and y_low + m < m:
            return 0.0, False
        low = merged
    msb = high >> np.uint64(63)
    fraction = high >> (msb + np.uint64(9))
    if msb == np.uint64(0):
        exponent -= 1
    if low == np.uint64(0) and high & low9 == np.uint64(0) and fraction & np.uint64(3) == one:
        return 0.0, False  # half-way: the truncated power cannot tell
    fraction += fraction & one
    fraction >>= one
    if fraction >> np.uint64(53) > np.uint64(0):
        fraction >>= one
        exponent += 1
    bits = (np.uint64(exponent) << np.uint64(52)) | (fraction & np.uint64((1 << 52) - 1))
    return np.uint64(bits).view(np.float64), True


@kernel
def _multiply(a: np.uint64, b: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The 128-bit product as (high, low)."""
    half = np.uint64(32)
    mask = np.uint64(0xFFFFFFFF)
    a1, a0, b1, b0 = a >> half, a & mask, b >> half, b & mask
    low = a0 * b0
    middle = a1 * b0 + (low >> half)
    cross = a0 * b1 + (middle & mask)
    return a1 * b1 + (middle >> half) + (cross >> half), (cross << half) | (low & mask)
