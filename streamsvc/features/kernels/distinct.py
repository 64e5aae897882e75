"""Distinct values: HyperLogLog (Flajolet et al. 2007) with 4096 registers, sparse while small.

A value is 64 bits of hash. Of these the sparse form keeps the first 26 bits, and the number of
zeros that follow them, in a half word, sorted: HyperLogLog++'s sparse form (Heule, Nunkesser &
Hall, EDBT 2013) with p' = 26, where two of 511 values coincide with a chance of 1 in 500. From it
the registers (p = 12) can be made without loss, which is done where a 512th entry would be stored.
So a payload, and the estimate made of a union of payloads, depend on the set of values alone: not
on their order, nor on the tiles they came in.

Up to 511 entries the estimate is their number. Beyond that it has the standard error
1.04 / sqrt(4096) = 1.6 % at any size (`kernels.estimate`).

Payload: half words, the first of which is the number of entries; or, in a block of DENSE_CLASS,
4096 bytes of registers.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import I64, U32
from streamsvc.features.kernels.bits import leading_zeros
from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.estimate import estimate
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import UNIT
from streamsvc.features.kernels.payload import class_at, place_of, renew

__all__ = [
    "DENSE_CLASS",
    "MOST_ZEROS",
    "SCRATCH",
    "SPARSE",
    "ZEROS",
    "add_entry",
    "add_registers",
    "distinct",
    "empty_union",
    "entry_of",
    "unite",
]

REGISTERS = 4096
_P = 12
_SPARSE_P = 26
ZEROS = 63
"""Bits of an entry that hold 1 + the zeros behind the first 26 bits."""
MOST_ZEROS = 64 - _SPARSE_P
DENSE_CLASS = 7
"""4096 bytes: the class above the largest sparse one."""
SPARSE = 511
"""Entries of the largest sparse payload, 2 KiB with the header."""

# The scratch: registers, then a hash set of entries + 1 in half words, at most a quarter full.
_SET = REGISTERS // 8
_SLOTS = 2048
SCRATCH = _SET + _SLOTS // 2
IN_REGISTERS = -1
"""In place of the number of entries of a union: it is in the registers."""


@inlined
def entry_of(hashed: int) -> int:
    """The sparse entry of a 64-bit hash."""
    h = np.uint64(hashed)
    rest = h << np.uint64(_SPARSE_P)
    zeros = min(leading_zeros(rest), MOST_ZEROS)
    return np.int64(h >> np.uint64(64 - _SPARSE_P)) << 6 | (zeros + 1)


@inlined
def _half(halves: U32, i: int) -> int:
    """A half word as int64, with which alone it may be mixed."""
    return np.int64(halves[i])  # type: ignore[return-value]


@inlined
def _register(entry: int) -> int:
    """Which register an entry belongs to."""
    return entry >> (6 + _SPARSE_P - _P)


@inlined
def _rank(entry: int) -> int:
    """1 + the zeros behind the bits that name the register."""
    between = entry >> 6 & ((1 << (_SPARSE_P - _P)) - 1)
    if between != 0:
        return leading_zeros(between) - (64 - (_SPARSE_P - _P)) + 1
    return _SPARSE_P - _P + (entry & ZEROS)


@kernel
def add_entry(cx: Context, at: int, entry: int) -> bool:
    """Note a value in the payload at handle `at`; False if the pool must grow first."""
    if cx.pool[at] == 0:
        if not renew(cx, at, 0, 0):
            return False
        cx.halves[place_of(cx, at) * 2] = 0
    size_class = class_at(cx, at)
    if size_class == DENSE_CLASS:
        place = place_of(cx, at) * 8 + _register(entry)
        cx.bytes[place] = max(cx.bytes[place], np.uint8(_rank(entry)))
        return True
    base = place_of(cx, at) * 2
    n = _half(cx.halves, base)
    low, high = base + 1, base + n + 1
    while low < high:
        middle = (low + high) >> 1
        # The same 26 bits are the same place, whatever follows them.
        if _half(cx.halves, middle) >> 6 < entry >> 6:
            low = middle + 1
        else:
            high = middle
    if low <= base + n and _half(cx.halves, low) >> 6 == entry >> 6:
        cx.halves[low] = max(cx.halves[low], np.uint32(entry))
        return True
    if n + 1 == 2 * UNIT << size_class:
        if n == SPARSE:
            return _densify(cx, at) and add_entry(cx, at, entry)
        if not renew(cx, at, size_class + 1, UNIT << size_class):
            return False
        low += place_of(cx, at) * 2 - base
        base = place_of(cx, at) * 2
    for i in range(base + n, low - 1, -1):
        cx.halves[i + 1] = cx.halves[i]
    cx.halves[low] = np.uint32(entry)
    cx.halves[base] = np.uint32(n + 1)
    return True


@kernel
def _densify(cx: Context, at: int) -> bool:
    """Registers in place of a sparse payload, or of none."""
    n = 0 if cx.pool[at] == 0 else _half(cx.halves, place_of(cx, at) * 2)
    entries = np.empty(n, np.int64)
    for i in range(n):
        entries[i] = _half(cx.halves, place_of(cx, at) * 2 + 1 + i)
    if not renew(cx, at, DENSE_CLASS, 0):
        return False
    place = place_of(cx, at)
    for w in range(REGISTERS // 8):
        cx.pool[place + w] = 0
    for i in range(n):
        e: int = entries[i]
        k = place * 8 + _register(e)
        cx.bytes[k] = max(cx.bytes[k], np.uint8(_rank(e)))
    return True


@kernel
def add_registers(cx: Context, at: int, words: I64, word: int) -> bool:
    """Add a dense payload, the registers from `words[word]` on, to the payload at handle `at`.

    False if the pool must grow first.
    """
    if (cx.pool[at] == 0 or class_at(cx, at) != DENSE_CLASS) and not _densify(cx, at):
        return False
    place = place_of(cx, at) * 8
    for k in range(REGISTERS):
        rank = words[word + k // 8] >> (8 * (k & 7)) & 0xFF
        cx.bytes[place + k] = max(cx.bytes[place + k], np.uint8(rank))
    return True


@kernel
def unite(cx: Context, at: int, count: int) -> int:
    """Add the payload at handle `at` to the union.

    `count` is what the call before returned: entries in the union, or IN_REGISTERS; 0 at first.
    """
    if cx.pool[at] == 0:
        return count
    place = place_of(cx, at)
    if class_at(cx, at) == DENSE_CLASS:
        if count >= 0:
            _to_registers(cx)
        for k in range(REGISTERS):
            cx.scratch_bytes[k] = max(cx.scratch_bytes[k], cx.bytes[place * 8 + k])
        return IN_REGISTERS
    first = place * 2 + 1
    for i in range(first, first + _half(cx.halves, first - 1)):
        entry = _half(cx.halves, i)
        if count >= 0:
            count += _insert(cx, entry)
            if count > SPARSE:
                _to_registers(cx)
                count = IN_REGISTERS
        else:
            k = _register(entry)
            cx.scratch_bytes[k] = max(cx.scratch_bytes[k], np.uint8(_rank(entry)))
    return count


@kernel
def _insert(cx: Context, entry: int) -> int:
    """1 if the entry is new to the set, else 0."""
    place = (entry >> 6) & (_SLOTS - 1)
    while True:
        k = 2 * _SET + place
        found = _half(cx.scratch_halves, k)
        if found == 0:
            cx.scratch_halves[k] = np.uint32(entry)
            return 1
        if found >> 6 == entry >> 6:
            cx.scratch_halves[k] = np.uint32(max(found, entry))
            return 0
        place = (place + 1) & (_SLOTS - 1)


@kernel
def _to_registers(cx: Context) -> None:
    for k in range(2 * _SET, 2 * _SET + _SLOTS):
        entry = _half(cx.scratch_halves, k)
        if entry != 0:
            cx.scratch_halves[k] = 0
            r = _register(entry)
            cx.scratch_bytes[r] = max(cx.scratch_bytes[r], np.uint8(_rank(entry)))


@kernel
def empty_union(cx: Context, count: int) -> None:
    """Leave the scratch as it was before the first `unite`."""
    low, high = (0, _SET) if count == IN_REGISTERS else (_SET, SCRATCH)
    if count != 0:
        for w in range(low, high):
            cx.scratch[w] = 0


@kernel
def distinct(cx: Context, count: int) -> int:
    """How many values are in the union."""
    return count if count >= 0 else estimate(cx.scratch_bytes, REGISTERS)
