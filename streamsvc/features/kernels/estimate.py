"""From the registers of a HyperLogLog to a number: Ertl's improved estimator (2017,
arXiv:1702.01284, algorithm 6), which needs no tables against bias.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import U8
from streamsvc.features.kernels.jit import kernel

__all__ = ["LONGEST", "estimate"]

LONGEST = 53
"""The greatest register: 1 + the bits of a hash behind the 12 that name the register."""


@kernel
def estimate(registers: U8, size: int) -> int:
    """How many values these registers have seen."""
    histogram = np.zeros(LONGEST + 1, np.int64)
    for k in range(size):
        histogram[registers[k]] += 1
    m = float(size)
    z = m * _tau(1.0 - histogram[LONGEST] / m)
    for k in range(LONGEST - 1, 0, -1):
        z = 0.5 * (z + histogram[k])
    z += m * _sigma(histogram[0] / m)
    return np.int64(np.rint(m * m / (2.0 * np.log(2.0) * z)))  # type: ignore[return-value]


@kernel
def _sigma(x: float) -> float:
    """Sum over k of x^(2^k) 2^(k-1), plus x; infinite at 1."""
    if x == 1.0:
        return np.inf
    y, z = 1.0, x
    while True:
        x *= x
        before = z
        z += x * y
        y += y
        if z == before:
            return z


@kernel
def _tau(x: float) -> float:
    """A third of 1 - x - sum over k of (1 - x^(2^-k))^2 2^-k; 0 at 0 and at 1."""
    if x in (0.0, 1.0):
        return 0.0
    y, z = 1.0, 1.0 - x
    while True:
        x = np.sqrt(x)
        before = z
        y *= 0.5
        z -= (1.0 - x) * (1.0 - x) * y
        if z == before:
            return z / 3.0
