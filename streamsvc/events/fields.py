"""The columns of a chunk while it is being decoded, and the schema as the kernels see it.

A schema is a tree: objects are inner nodes, event fields are leaves. `FieldTree` holds it as
arrays, one entry for each key of each object, so that a kernel can walk a record with it.
`Builder` holds the columns: every number is a 64-bit word in one matrix, and a string is two words,
its start and its end in the data.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import F64, I64, U8, Bools, BytesColumn, Column, NumericColumn
from streamsvc.definitions.plan import EventField

__all__ = ["BOOL", "FLOAT", "INT", "OBJECT", "STRING", "Builder", "FieldTree"]

INT: Final = 0
FLOAT: Final = 1
BOOL: Final = 2
STRING: Final = 3
OBJECT: Final = 4

_KINDS: Final = {"int64": INT, "float64": FLOAT, "bool": BOOL, "string": STRING}


@dataclass(frozen=True, slots=True, eq=False)
class FieldTree:
    """Entries of all objects of a schema; those of node k are `first[k] … first[k + 1] - 1`.

    Node 0 is the record itself. Arrays over entries have shape (m,), `first` has (nodes + 1,).
    """

    first: I64
    keys: U8
    """The UTF-8 bytes of every key, one after the other."""
    key_start: I64
    key_end: I64
    kind: I64
    """INT, FLOAT, BOOL, STRING or OBJECT."""
    field: I64
    """Index of the event field; for an object, its node."""
    slot: I64
    """Row of the word matrix; a string also has the next one."""
    required: Bools
    """Whether the field must be there and not null."""
    n_required: int
    depth: int
    """Objects inside one another, the record not counted."""

    @classmethod
    def of(cls, fields: Sequence[EventField], slots: I64) -> FieldTree:
        """The tree of these fields, whose words start at `slots`."""
        nodes: list[tuple[str, ...]] = [()]
        for field in fields:
            for depth in range(1, len(field.path)):
                if field.path[:depth] not in nodes:
                    nodes.append(field.path[:depth])
        entries: list[tuple[bytes, int, int, int, bool]] = []
        first = [0]
        for node in nodes:
            for i, f in enumerate(fields):
                if f.path[:-1] == node:
                    key = f.path[-1].encode()
                    entries.append((key, _KINDS[f.type], i, int(slots[i]), not f.nullable))
            for k, child in enumerate(nodes):
                if child and child[:-1] == node:
                    entries.append((child[-1].encode(), OBJECT, k, 0, False))
            first.append(len(entries))
        keys = [entry[0] for entry in entries]
        ends = np.cumsum([len(key) for key in keys], dtype=np.int64)
        return cls(
            first=np.array(first, np.int64),
            keys=np.frombuffer(b"".join(keys), np.uint8),
            key_start=ends - np.array([len(key) for key in keys], np.int64),
            key_end=ends,
            kind=np.array([entry[1] for entry in entries], np.int64),
            field=np.array([entry[2] for entry in entries], np.int64),
            slot=np.array([entry[3] for entry in entries], np.int64),
            required=np.array([entry[4] for entry in entries], np.bool_),
            n_required=sum(entry[4] for entry in entries),
            depth=max(len(node) for node in nodes),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Builder:
    """Columns of n rows that are being filled; all null and 0 at first."""

    fields: tuple[EventField, ...]
    slots: I64
    words: I64
    """Shape (words, n): int64 values, bools as 0 and 1, starts and ends of strings."""
    floats: F64
    """The same memory, for float64 values."""
    valid: NDArray[np.bool_]
    """Shape (fields, n)."""

    @staticmethod
    def slots_of(fields: Sequence[EventField]) -> I64:
        """Where each field's words start; shape (fields + 1,), the last is their number."""
        widths = [2 if f.type == "string" else 1 for f in fields]
        return np.cumsum([0, *widths], dtype=np.int64)

    @classmethod
    def empty(cls, fields: tuple[EventField, ...], slots: I64, n: int) -> Builder:
        """All null."""
        words = np.zeros((int(slots[-1]), n), np.int64)
        return cls(
            fields, slots, words, words.view(np.float64), np.zeros((len(fields), n), np.bool_)
        )

    def column(self, i: int, data: U8) -> Column:
        """Column of field i; a string's words are positions in `data`."""
        kind, slot, valid = self.fields[i].type, int(self.slots[i]), self.valid[i]
        if kind == "string":
            return BytesColumn(data, self.words[slot], self.words[slot + 1], valid)
        if kind == "float64":
            return NumericColumn(self.floats[slot], valid)
        if kind == "bool":
            return NumericColumn(self.words[slot] != 0, valid)
        return NumericColumn(self.words[slot], valid)
