"""Decimal to double, bit by bit as float() reads it."""

from __future__ import annotations

import random
import struct

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numba import njit

from streamsvc.events.floats import MAX_POWER, to_double


@njit
def _all(significands, powers, found, proven):
    for i in range(len(found)):
        found[i], proven[i] = to_double(significands[i], powers[i])


def check(pairs: list[tuple[int, int]]) -> np.ndarray:
    significands = np.array([s for s, _ in pairs], np.int64)
    powers = np.array([p for _, p in pairs], np.int64)
    found, proven = np.zeros(len(pairs)), np.zeros(len(pairs), np.bool_)
    _all(significands, powers, found, proven)
    for (s, p), value, sure in zip(pairs, found.tolist(), proven.tolist(), strict=True):
        if sure:
            assert struct.pack("d", value) == struct.pack("d", float(f"{s}e{p}")), (s, p)
    return proven


@settings(deadline=None, max_examples=500)
@given(st.integers(0, 10**18 - 1), st.integers(-400, 400))
@example(2**53 + 1, 0)
@example(2**53 + 1, 1)
@example(9_007_199_254_740_993, -1)
@example(10**18 - 1, -64)
@example(10**18 - 1, 64)
def test_any_decimal(significand, power):
    check([(significand, power)])


def test_doubles_as_they_are_printed():
    rng = random.Random(7)
    pairs = []
    for _ in range(50_000):
        digits, _, exponent = f"{rng.random() * 10 ** rng.randint(-9, 9):.16e}".partition("e")
        pairs.append((int(digits.replace(".", "")), int(exponent) - 16))
    assert check(pairs).all()


def test_halfway_between_two_doubles():
    rng = random.Random(8)
    pairs = []
    for _ in range(20_000):
        # An odd multiple of half a unit in the last place, within 18 digits.
        m, shift = rng.randrange(2**52, 2**53), rng.randrange(0, 5)
        pairs.append(((2 * m + 1) * 5**shift, -shift))
    check([(s, p) for s, p in pairs if s < 10**18])


def test_what_is_beyond_the_table_is_not_proven():
    assert not check([(10**17 + 1, MAX_POWER + 1), (10**17 + 1, -MAX_POWER - 1)]).any()
    assert check([(10**17 + 1, MAX_POWER), (10**17 + 1, -MAX_POWER), (0, 999)]).all()
