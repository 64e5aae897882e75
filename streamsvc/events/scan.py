"""The compiled scan: ordinary JSON records → columns, straight from the raw bytes.

It takes objects whose unknown fields are strings, numbers, true, false or null, in any order and
with any white space. It leaves a record alone (and the general decoder reads it) as soon as
anything is out of the ordinary: an escape, a key that stands twice, an unknown object or array, a
number with more than 18 digits or whose rounding it cannot prove, a value of another type than the
field's, a required field that is missing, or JSON that is not valid. So it never rejects, and what
it takes is what the general decoder would have given.

Keys mostly come in the order of the record before, so that each is first compared with the one that
stood in its place there.

The loop over records is one function on purpose: numba counts references to every array that is
passed to a function, and with a function per record that was two thirds of the time.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import F64, I64, U8, Bools, BytesColumn
from streamsvc.events.fields import BOOL, FLOAT, INT, OBJECT, STRING, Builder, FieldTree
from streamsvc.events.floats import to_double
from streamsvc.events.jit import kernel
from streamsvc.events.tokens import (
    NOT_A_NUMBER,
    WHOLE,
    at,
    literal,
    match,
    number,
    skip_space,
    string_end,
)

__all__ = ["scan"]

_HINTS: Final = 256
_INT64_LIMIT: Final = 2.0**63


def scan(tree: FieldTree, builder: Builder, values: BytesColumn, rows: Bools) -> Bools:
    """Fill the columns for those of `rows` that are ordinary; returns which they were, shape (n,).

    A row that is left alone may hold parts of its record.
    """
    # One compiled form for chunks that may be written to and chunks that may not.
    data = np.ascontiguousarray(values.data).view()
    data.flags.writeable = False
    done = np.zeros(len(rows), np.bool_)
    _scan(
        data,
        values.start,
        values.end,
        rows,
        tree.first,
        tree.keys,
        tree.key_start,
        tree.key_end,
        tree.kind,
        tree.field,
        tree.slot,
        tree.required,
        tree.n_required,
        tree.depth,
        builder.words,
        builder.floats,
        builder.valid,
        done,
    )
    return done


@kernel
def _scan(  # noqa: PLR0912, PLR0915 - one automaton, see above
    a: U8,
    start: I64,
    end: I64,
    rows: Bools,
    first: I64,
    keys: U8,
    key_start: I64,
    key_end: I64,
    kind: I64,
    field: I64,
    slot: I64,
    required: Bools,
    n_required: int,
    depth: int,
    words: I64,
    floats: F64,
    valid: NDArray[np.bool_],
    done: Bools,
) -> None:
    hints = np.full(_HINTS, -1, np.int64)
    seen = np.full(len(kind), -1, np.int64)  # the last row that had the entry's key
    stack = np.zeros(depth + 1, np.int64)
    for i in range(len(rows)):
        if not rows[i]:
            continue
        e = end[i]
        p = skip_space(a, start[i], e)
        if p >= e or at(a, p) != 123:
            continue
        p += 1
        node = level = n_keys = n_found = 0
        after_value = False  # else just behind a "{"
        while True:  # a break leaves the record alone
            p = skip_space(a, p, e)
            if p >= e:
                break
            if at(a, p) == 125:
                p += 1
                if level == 0:
                    done[i] = n_found == n_required and skip_space(a, p, e) == e
                    break
                level -= 1
                node = stack[level]
                after_value = True
                continue
            if after_value:
                if at(a, p) != 44:
                    break
                p = skip_space(a, p + 1, e)
            if p >= e or at(a, p) != 34:
                break
            # The key: the one that stood here in the record before, or else any of this object.
            p += 1
            entry = hints[n_keys] if n_keys < _HINTS else -1
            q = -1
            if first[node] <= entry < first[node + 1]:
                q = match(a, p, e, keys, key_start[entry], key_end[entry])
            if q < 0:
                q = string_end(a, p, e)
                if q < 0:
                    break
                entry = -1
                for k in range(first[node], first[node + 1]):
                    if match(a, p, q + 1, keys, key_start[k], key_end[k]) >= 0:
                        entry = k
                        break
                if n_keys < _HINTS:
                    hints[n_keys] = entry
            n_keys += 1
            p = skip_space(a, q + 1, e)
            if p >= e or at(a, p) != 58:
                break
            p = skip_space(a, p + 1, e)
            if p >= e:
                break
            wanted = -1  # any
            if entry >= 0:
                if seen[entry] == i:
                    break
                seen[entry] = i
                wanted = kind[entry]
            c = at(a, p)
            after_value = True
            if c == 123:
                if wanted != OBJECT:
                    break
                stack[level] = node
                level += 1
                node = field[entry]
                p += 1
                after_value = False
                continue
            if c == 110:
                p = literal(a, p, e, 110, 117, 108, 108)
                if p < 0:
                    break
                continue
            if c == 34:
                if wanted not in (-1, STRING):
                    break
                q = string_end(a, p + 1, e)
                if q < 0:
                    break
                if wanted >= 0:
                    words[slot[entry], i] = p + 1
                    words[slot[entry] + 1, i] = q
                p = q + 1
            elif c in (116, 102):
                if wanted not in (-1, BOOL):
                    break
                if c == 116:
                    p = literal(a, p, e, 116, 114, 117, 101)
                else:
                    p = literal(a, p + 1, e, 97, 108, 115, 101)
                if p < 0:
                    break
                if wanted >= 0:
                    words[slot[entry], i] = c == 116
            else:
                if wanted not in (-1, INT, FLOAT):
                    break
                p, token, significand, power = number(a, p, e)
                if token == NOT_A_NUMBER:
                    break
                if token == WHOLE and wanted == INT:
                    words[slot[entry], i] = -significand if c == 45 else significand
                else:
                    value, proven = to_double(significand, power)
                    if not proven:
                        break
                    # "-0" is the integer 0, "-0.0" is not.
                    if c == 45 and not (token == WHOLE and significand == 0):
                        value = -value
                    if wanted == FLOAT:
                        floats[slot[entry], i] = value
                    elif wanted == INT:
                        if not (abs(value) < _INT64_LIMIT and value == np.floor(value)):
                            break
                        words[slot[entry], i] = np.int64(value)
            if wanted >= 0:
                valid[field[entry], i] = True
                if required[entry]:
                    n_found += 1
