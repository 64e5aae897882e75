"""Runs a program on each record of a chunk, compiled.

The loop over records is one function, as in `scan`, and for the same reason.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import I64, U8, Bools
from streamsvc.events.avro import program as steps_of
from streamsvc.events.avro.program import Program
from streamsvc.events.fields import Builder
from streamsvc.events.jit import kernel
from streamsvc.events.varints import fixed32, utf8_end, varint, zigzag
from streamsvc.features.kernels.pointers import as_bytes, as_floats, pointer, word_at

__all__ = [
    "BAD_BRANCH",
    "BAD_LENGTH",
    "BAD_UTF8",
    "GOOD",
    "MISMATCHED",
    "NOT_THE_END",
    "TOO_DEEP",
    "TOO_SHORT",
    "interpret",
]

GOOD: Final = 0
TOO_SHORT: Final = 1
NOT_THE_END: Final = 2
BAD_LENGTH: Final = 3
BAD_BRANCH: Final = 4
BAD_UTF8: Final = 5
TOO_DEEP: Final = 6
MISMATCHED: Final = 7

_MAX_DEPTH: Final = 128
_END, _INT, _INT_AS_FLOAT = steps_of.END, steps_of.INT, steps_of.INT_AS_FLOAT
_FLOAT, _DOUBLE, _BOOL = steps_of.FLOAT, steps_of.DOUBLE, steps_of.BOOL
_TEXT, _SYMBOL, _CONSTANT = steps_of.TEXT, steps_of.SYMBOL, steps_of.CONSTANT
_CONSTANT_TEXT, _UNION, _JUMP = steps_of.CONSTANT_TEXT, steps_of.UNION, steps_of.JUMP
_SKIP_INT, _SKIP_BYTES, _SKIP_TEXT = steps_of.SKIP_INT, steps_of.SKIP_BYTES, steps_of.SKIP_TEXT
_SKIP_SYMBOL, _BLOCKS, _LOOP = steps_of.SKIP_SYMBOL, steps_of.BLOCKS, steps_of.LOOP
_CALL, _RETURN = steps_of.CALL, steps_of.RETURN


def interpret(
    program: Program, builder: Builder, data: U8, start: I64, end: I64, rows: Bools, text_base: int
) -> tuple[I64, I64]:
    """Fill the columns for `rows`, whose records lie at `data[start:end]`.

    The program's own text will lie at `text_base` of the data. Returns, for every row, what is
    wrong with its record and the step at which that was seen; shape (n,). A bad record's columns
    hold whatever was read of it.
    """
    fault = np.zeros(len(rows), np.int64)
    place = np.zeros(len(rows), np.int64)
    _interpret(
        data,
        start,
        end,
        rows,
        program.steps,
        program.jumps,
        program.text_start,
        program.text_end,
        text_base,
        builder.words,
        builder.valid,
        fault,
        place,
    )
    return fault, place


@kernel
def _interpret(  # noqa: PLR0912, PLR0915 - one automaton
    data: U8,
    start: I64,
    end: I64,
    rows: Bools,
    steps: I64,
    jumps: I64,
    text_start: I64,
    text_end: I64,
    text_base: int,
    words: I64,
    valid: NDArray[np.bool_],
    fault: I64,
    place: I64,
) -> None:
    single_bits = np.zeros(1, np.uint32)
    single = single_bits.view(np.float32)
    n = len(rows)
    a, step, cell, number, known = (
        pointer(data),
        pointer(steps),
        pointer(words),
        as_floats(words),
        as_bytes(valid),
    )
    # Loops: items left, position at the start of the item. Calls: the step to return to, -1.
    stack = np.zeros(_MAX_DEPTH, np.int64)
    mark = np.zeros(_MAX_DEPTH, np.int64)
    for i in range(n):
        if not rows[i]:
            continue
        p, e = start[i], end[i]
        pc = depth = 0
        wrong = GOOD
        while True:  # a break with wrong set refuses the record
            at = 4 * pc
            code, one, two = step[at], step[at + 1], step[at + 2]
            if code in (_INT, _INT_AS_FLOAT, _SKIP_INT):
                word, q = varint(a, p, e, 1)
                if q < 0:
                    wrong = TOO_SHORT if q == -1 else BAD_LENGTH
                    break
                p = q
                if code != _SKIP_INT:
                    if code == _INT:
                        cell[one * n + i] = zigzag(word)
                    else:
                        number[one * n + i] = np.float64(zigzag(word))
                    known[two * n + i] = np.uint8(1)
            elif code in (_TEXT, _SKIP_TEXT):
                word, q = varint(a, p, e, 1)
                if q < 0:
                    wrong = TOO_SHORT if q == -1 else BAD_LENGTH
                    break
                length = zigzag(word)
                if length < 0:
                    wrong = BAD_LENGTH
                    break
                if length > e - q:
                    wrong = TOO_SHORT
                    break
                p = q + length
                if code == _TEXT:
                    if utf8_end(a, q, p) != p:
                        wrong = BAD_UTF8
                        break
                    cell[one * n + i] = q
                    cell[(one + 1) * n + i] = p
                    known[two * n + i] = np.uint8(1)
            elif code == _DOUBLE:
                if e - p < 8:
                    wrong = TOO_SHORT
                    break
                cell[one * n + i] = np.int64(word_at(a, p))
                known[two * n + i] = np.uint8(1)
                p += 8
            elif code in (_UNION, _SYMBOL, _SKIP_SYMBOL):
                word, q = varint(a, p, e, 1)
                if q < 0:
                    wrong = TOO_SHORT if q == -1 else BAD_LENGTH
                    break
                p = q
                which = zigzag(word)
                if code == _UNION:
                    many = two
                elif code == _SYMBOL:
                    many = step[at + 5]
                else:
                    many = one
                if which < 0 or which >= many:
                    wrong = BAD_BRANCH
                    break
                if code == _UNION:
                    pc = jumps[one + which]
                    continue
                if code == _SYMBOL:
                    cell[one * n + i] = text_base + text_start[step[at + 3] + which]
                    cell[(one + 1) * n + i] = text_base + text_end[step[at + 3] + which]
                    known[two * n + i] = np.uint8(1)
                    pc += 1
            elif code == _BOOL:
                if p >= e:
                    wrong = TOO_SHORT
                    break
                b = a[p]
                if b > 1:
                    wrong = BAD_BRANCH
                    break
                cell[one * n + i] = b
                known[two * n + i] = np.uint8(1)
                p += 1
            elif code == _FLOAT:
                if e - p < 4:
                    wrong = TOO_SHORT
                    break
                single_bits[0] = fixed32(a, p)
                number[one * n + i] = single[0]
                known[two * n + i] = np.uint8(1)
                p += 4
            elif code == _SKIP_BYTES:
                if e - p < one:
                    wrong = TOO_SHORT
                    break
                p += one
            elif code == _JUMP:
                pc = one
                continue
            elif code == _END:
                if p != e:
                    wrong = NOT_THE_END
                break
            elif code == _CONSTANT:
                cell[one * n + i] = step[at + 3]
                known[two * n + i] = np.uint8(1)
            elif code == _CONSTANT_TEXT:
                cell[one * n + i] = text_base + text_start[step[at + 3]]
                cell[(one + 1) * n + i] = text_base + text_end[step[at + 3]]
                known[two * n + i] = np.uint8(1)
            elif code in (_BLOCKS, _LOOP):
                if code == _LOOP:
                    # Items without bytes can be any number: they are passed over at once.
                    left = stack[depth - 1] - 1 if p > mark[depth - 1] else 0
                    depth -= 1
                    body = one
                    behind = pc + 1
                else:
                    left = 0
                    body = pc + 1
                    behind = one
                ended = False
                while left == 0:
                    word, q = varint(a, p, e, 1)
                    if q < 0:
                        wrong = TOO_SHORT if q == -1 else BAD_LENGTH
                        break
                    p = q
                    left = zigzag(word)
                    if left == 0:
                        ended = True
                        break
                    if left < 0:
                        # A block of that many items, with its size in bytes. Its items are walked
                        # all the same: a wrong size must not change what is read behind.
                        word, q = varint(a, p, e, 1)
                        if q < 0:
                            wrong = TOO_SHORT if q == -1 else BAD_LENGTH
                            break
                        size = zigzag(word)
                        if size < 0:
                            wrong = BAD_LENGTH
                            break
                        if size > e - q:
                            wrong = TOO_SHORT
                            break
                        p = q
                        left = -left
                        if left < 0:
                            wrong = BAD_LENGTH
                            break
                if wrong != GOOD:
                    break
                if ended:
                    pc = behind
                else:
                    if depth == _MAX_DEPTH:
                        wrong = TOO_DEEP
                        break
                    stack[depth] = left
                    mark[depth] = p
                    depth += 1
                    pc = body
                continue
            elif code == _CALL:
                if depth == _MAX_DEPTH:
                    wrong = TOO_DEEP
                    break
                stack[depth] = pc + 1
                depth += 1
                pc = one
                continue
            elif code == _RETURN:
                depth -= 1
                pc = stack[depth]
                continue
            else:
                wrong = MISMATCHED
                break
            pc += 1
        fault[i] = wrong
        place[i] = pc
