"""Reads Protobuf messages of a chunk into columns, compiled (Protobuf encoding guide).

As the format wants it: fields in any order, the last of a repeated one counts, a message that comes
in parts is merged, setting one field of a oneof clears the others, and fields that are unknown or
come in another form than declared are read over.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import I64, U8, Bools
from streamsvc.events.fields import Builder
from streamsvc.events.jit import kernel
from streamsvc.events.protobuf import tables as todo
from streamsvc.events.protobuf.tables import Tables
from streamsvc.events.varints import fixed32, utf8_end, varint, zigzag
from streamsvc.features.kernels.pointers import as_bytes, as_floats, pointer, word_at

__all__ = [
    "BAD_TAG",
    "BAD_UTF8",
    "GOOD",
    "MISSING",
    "TOO_DEEP",
    "TOO_LARGE",
    "TOO_SHORT",
    "interpret",
]

GOOD: Final = 0
TOO_SHORT: Final = 1
BAD_TAG: Final = 2
BAD_UTF8: Final = 3
TOO_DEEP: Final = 4
TOO_LARGE: Final = 5
MISSING: Final = 6

_MAX_GROUPS: Final = 100
_MAX_TAG: Final = 2**32 - 1
_TAG_BYTES: Final = 5
_VARINT, _FIXED64, _BYTES, _GROUP, _GROUP_END, _FIXED32 = 0, 1, 2, 3, 4, 5
_FIRST_SECOND: Final = -62_135_596_800
_LAST_SECOND: Final = 253_402_300_799
_SKIP, _INT64, _UINT64 = todo.SKIP, todo.INT64, todo.UINT64
_INT32, _UINT32, _SINT32, _SINT64 = todo.INT32, todo.UINT32, todo.SINT32, todo.SINT64
_BOOL, _CLOSED_ENUM = todo.BOOL, todo.CLOSED_ENUM
_UNSIGNED64, _SFIXED64, _DOUBLE = todo.FIXED64, todo.SFIXED64, todo.DOUBLE
_UNSIGNED32, _SFIXED32, _FLOAT = todo.FIXED32, todo.SFIXED32, todo.FLOAT
_STRING, _MESSAGE, _SECONDS, _NANOS = todo.STRING, todo.MESSAGE, todo.SECONDS, todo.NANOS
_WIRE: Final = np.array([-1, *[0] * 8, *[1] * 3, *[5] * 3, 2, 2, 0, 0])
"""The form in which what is to be done comes."""


def interpret(
    tables: Tables, builder: Builder, data: U8, start: I64, end: I64, rows: Bools
) -> tuple[I64, I64]:
    """Fill the columns for `rows`, whose messages lie at `data[start:end]`.

    Returns, for every row, what is wrong with its message, and the number of the field at which
    that was seen (of MISSING: its place in `tables.required`); shape (n,). A bad message's columns
    hold whatever was read of it.
    """
    fault = np.zeros(len(rows), np.int64)
    place = np.zeros(len(rows), np.int64)
    present = np.zeros((len(tables.nodes), len(rows)), np.bool_)
    _interpret(
        data,
        start,
        end,
        rows,
        tables.first,
        tables.entries,
        tables.nodes,
        tables.allowed,
        tables.oneofs,
        builder.slots,
        builder.words,
        builder.valid,
        present,
        fault,
        place,
    )
    for field, node in tables.implicit.tolist():
        builder.valid[field] |= present[node]
    for k, each in enumerate(tables.required):
        there = present[each.node] if each.node >= 0 else builder.valid[each.field]
        missing = present[each.within] & ~there & (fault == GOOD)
        fault[missing] = MISSING
        place[missing] = k
    return fault, place


@kernel
def _interpret(  # noqa: PLR0912, PLR0915 - one automaton
    data: U8,
    start: I64,
    end: I64,
    rows: Bools,
    first: I64,
    entries: I64,
    nodes: I64,
    allowed: I64,
    oneofs: int,
    slots: I64,
    words: I64,
    valid: NDArray[np.bool_],
    present: NDArray[np.bool_],
    fault: I64,
    place: I64,
) -> None:
    n = len(rows)
    single_bits = np.zeros(1, np.uint32)
    single = single_bits.view(np.float32)
    chosen = np.full(oneofs + 1, -1, np.int64)
    ends = np.zeros(len(nodes) + 1, np.int64)
    groups = np.zeros(_MAX_GROUPS, np.int64)
    a, cell, number_cell = pointer(data), pointer(words), as_floats(words)
    known, there = as_bytes(valid), as_bytes(present)
    entry_at, slot_at, choice = pointer(entries), pointer(slots), pointer(chosen)
    for i in range(n):
        if not rows[i]:
            continue
        p, e = start[i], end[i]
        node = level = n_groups = 0
        ends[0] = e
        there[i] = np.uint8(1)
        for k in range(oneofs):
            choice[k] = -1
        hint = first[0]
        number = np.int64(0)
        wrong = GOOD
        while True:  # a break with wrong set refuses the record
            if p == e:
                if n_groups > 0:
                    wrong = TOO_SHORT
                    break
                if level == 0:
                    break
                level -= 1
                e = ends[level]
                node = nodes[node, 3]
                hint = first[node]
                continue
            tag, q = varint(a, p, e, 127)
            if q < 0 or q - p > _TAG_BYTES or tag > np.uint64(_MAX_TAG) or tag < np.uint64(8):
                wrong = TOO_SHORT if q == -1 else BAD_TAG
                break
            p = q
            number = np.int64(tag >> np.uint64(3))
            wire = np.int64(tag & np.uint64(7))
            within_group = n_groups > 0
            # What stands in the field, whoever wants it: a word, or bytes from p to q.
            word = np.uint64(0)
            if wire == _VARINT:
                word, q = varint(a, p, e, 127)
                if q < 0:
                    wrong = TOO_SHORT if q == -1 else BAD_TAG
                    break
            elif wire == _BYTES:
                word, q = varint(a, p, e, 127)
                if q < 0:
                    wrong = TOO_SHORT if q == -1 else BAD_TAG
                    break
                if word > np.uint64(e - q):
                    wrong = TOO_SHORT
                    break
                p = q
                q = p + np.int64(word)
            elif wire == _FIXED64:
                if e - p < 8:
                    wrong = TOO_SHORT
                    break
                word = word_at(a, p)
                q = p + 8
            elif wire == _FIXED32:
                if e - p < 4:
                    wrong = TOO_SHORT
                    break
                word = np.uint64(fixed32(a, p))
                q = p + 4
            elif wire == _GROUP:
                if n_groups == _MAX_GROUPS:
                    wrong = TOO_DEEP
                    break
                groups[n_groups] = number
                n_groups += 1
            elif wire == _GROUP_END:
                if n_groups == 0 or groups[n_groups - 1] != number:
                    wrong = BAD_TAG
                    break
                n_groups -= 1
                continue
            else:
                wrong = BAD_TAG
                break
            # Fields mostly come in ascending order, so the next one is tried first.
            entry = -1
            if not within_group:
                if hint < first[node + 1] and entry_at[5 * hint] == number:
                    entry = hint
                else:
                    for k in range(first[node], first[node + 1]):
                        if entry_at[5 * k] == number:
                            entry = k
                            break
            if entry < 0:
                p = q
                continue
            hint = entry + 1
            code, field = entry_at[5 * entry + 1], entry_at[5 * entry + 2]
            oneof = entry_at[5 * entry + 3]
            if wire != (entry_at[5 * entry + 4] if code == _SKIP else _WIRE[code]):
                p = q
                continue
            if code == _CLOSED_ENUM:
                table = entry_at[5 * entry + 4]
                member = False
                for k in range(table + 1, table + 1 + allowed[table]):
                    member = member or allowed[k] == np.int64(np.int32(word))
                if not member:
                    p = q
                    continue
            if oneof >= 0:
                last = choice[oneof]
                choice[oneof] = entry
                if last >= 0 and last != entry:
                    was, of = entries[last, 1], entries[last, 2]
                    begin, stop = of, of + 1
                    if was == _SKIP:
                        stop = begin
                    elif was == _MESSAGE:
                        begin, stop = nodes[of, 1], nodes[of, 2]
                        for k in range(of, nodes[of, 0]):
                            there[k * n + i] = np.uint8(0)
                    for k in range(begin, stop):
                        known[k * n + i] = np.uint8(0)
                        for s in range(slot_at[k], slot_at[k + 1]):
                            cell[s * n + i] = 0
                if code == _SKIP:
                    p = q
                    continue
            if code == _MESSAGE:
                there[field * n + i] = np.uint8(1)
                level += 1
                ends[level] = e = q
                node = field
                hint = first[node]
                continue
            at = slot_at[field] * n + i
            if code == _STRING:
                if utf8_end(a, p, q) != q:
                    wrong = BAD_UTF8
                    break
                cell[at] = p
                cell[at + n] = q
            elif code in (_INT64, _SFIXED64, _DOUBLE):
                cell[at] = np.int64(word)
            elif code in (_UINT64, _UNSIGNED64):
                if word >> np.uint64(63) != np.uint64(0):
                    wrong = TOO_LARGE
                    break
                cell[at] = np.int64(word)
            elif code in (_INT32, _SFIXED32, _CLOSED_ENUM):
                cell[at] = np.int64(np.int32(word))
            elif code in (_UINT32, _UNSIGNED32):
                cell[at] = np.int64(np.uint32(word))
            elif code == _SINT32:
                cell[at] = zigzag(word & np.uint64(0xFFFFFFFF))
            elif code == _SINT64:
                cell[at] = zigzag(word)
            elif code == _BOOL:
                cell[at] = 1 if word != np.uint64(0) else 0
            elif code == _FLOAT:
                single_bits[0] = np.uint32(word)
                number_cell[at] = np.float64(single[0])
            elif code == _SECONDS:
                seconds = np.int64(word)
                if seconds < _FIRST_SECOND or seconds > _LAST_SECOND:
                    wrong = TOO_LARGE
                    break
                cell[at] = seconds * 1_000_000 + cell[at] % 1_000_000
            else:
                nanos = np.int64(np.int32(word))
                if nanos < 0 or nanos > 999_999_999:
                    wrong = TOO_LARGE
                    break
                cell[at] = cell[at] // 1_000_000 * 1_000_000 + nanos // 1_000
            if code < _SECONDS:
                known[field * n + i] = np.uint8(1)
            p = q
        fault[i] = wrong
        place[i] = number
