"""Descriptor of a Protobuf message → event fields, and the tables that the interpreter walks.

| Protobuf | column |
|---|---|
| all integers, enum (its number) | int64 |
| float, double | float64 |
| bool | bool |
| string | string |
| google.protobuf.Timestamp | int64, microseconds since 1970 |
| message | a column for each of its fields, by dotted path |

Repeated fields, maps, bytes, groups and messages within themselves are read over: they are no
columns. A field without presence (proto3 without `optional`) is never null: absent is 0, false or
"". One with presence is null when absent, and so is everything within a message that is absent.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from streamsvc.definitions.plan import EventField, FieldType
from streamsvc.events.protobuf.tables import (
    BOOL,
    CLOSED_ENUM,
    DOUBLE,
    FIXED32,
    FIXED64,
    FLOAT,
    INT32,
    INT64,
    MESSAGE,
    NANOS,
    SECONDS,
    SFIXED32,
    SFIXED64,
    SINT32,
    SINT64,
    SKIP,
    STRING,
    UINT32,
    UINT64,
    Required,
    Tables,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor

__all__ = ["MessageColumns", "describe", "find_message", "message_columns"]

# FieldDescriptor.type -> what the interpreter does, and the column's type. Absent: no column.
_LEAVES: Final[dict[int, tuple[int, FieldType]]] = {
    1: (DOUBLE, "float64"),
    2: (FLOAT, "float64"),
    3: (INT64, "int64"),
    4: (UINT64, "int64"),
    5: (INT32, "int64"),
    6: (FIXED64, "int64"),
    7: (FIXED32, "int64"),
    8: (BOOL, "bool"),
    9: (STRING, "string"),
    13: (UINT32, "int64"),
    14: (INT32, "int64"),
    15: (SFIXED32, "int64"),
    16: (SFIXED64, "int64"),
    17: (SINT32, "int64"),
    18: (SINT64, "int64"),
}
_ENUM: Final = 14
_MESSAGE: Final = 11
_NAMES: Final = {10: "a group", 11: "a message within itself", 12: "bytes"}
_FORMS: Final = {10: 3, 11: 2, 12: 2}
"""In which form what is no column comes."""
_TIMESTAMP: Final = "google.protobuf.Timestamp"


@dataclass(slots=True, eq=False)
class MessageColumns:
    """What a descriptor gives."""

    fields: list[EventField] = field(default_factory=list)
    times: set[str] = field(default_factory=set)
    """Columns that are Timestamps."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Dotted path of a field that is no column -> what it is."""
    tables: Tables | None = None


def message_columns(descriptor: Descriptor) -> MessageColumns:
    """The columns of a message type and the tables to read it with."""
    walk = _Walk()
    walk.message(descriptor, (), False, (), -1)
    entries = [entry for node in walk.entries for entry in sorted(node)]
    walk.found.tables = Tables(
        np.cumsum([0, *(len(node) for node in walk.entries)], dtype=np.int64),
        np.array(entries, np.int64).reshape(-1, 5),
        np.array(walk.nodes, np.int64).reshape(-1, 4),
        np.array(walk.allowed, np.int64),
        walk.oneofs,
        np.array(walk.implicit, np.int64).reshape(-1, 2),
        tuple(walk.required),
    )
    return walk.found


class _Walk:
    def __init__(self) -> None:
        self.found = MessageColumns()
        self.entries: list[list[tuple[int, int, int, int, int]]] = []
        self.nodes: list[list[int]] = []
        self.allowed: list[int] = []
        self.oneofs = 0
        self.implicit: list[tuple[int, int]] = []
        self.required: list[Required] = []

    def message(
        self,
        descriptor: Descriptor,
        path: tuple[str, ...],
        nullable: bool,
        around: tuple[str, ...],
        parent: int,
    ) -> int:
        """Add a message and what is within it; returns its node."""
        node, fields = len(self.nodes), self.found.fields
        self.entries.append([])
        self.nodes.append([0, len(fields), 0, parent])
        oneofs: dict[str, int] = {}
        if descriptor.full_name == _TIMESTAMP:
            self.found.times.add(".".join(path))
            self.implicit.append((len(fields), node))
            self.entries[node] += [(1, SECONDS, len(fields), -1, 0), (2, NANOS, len(fields), -1, 0)]
            fields.append(EventField(".".join(path), path, "int64", nullable))
        else:
            for each in descriptor.fields:
                self._field(
                    each, (*path, each.name), nullable, (*around, descriptor.full_name), node,
                    self._oneof(each, oneofs),
                )  # fmt: skip
        self.nodes[node][0], self.nodes[node][2] = len(self.nodes), len(fields)
        return node

    def _oneof(self, each: FieldDescriptor, seen: dict[str, int]) -> int:
        oneof = each.containing_oneof
        # `optional` of proto3 is a oneof of one.
        if oneof is None or len(oneof.fields) < 2:
            return -1
        if oneof.name not in seen:
            seen[oneof.name] = self.oneofs
            self.oneofs += 1
        return seen[oneof.name]

    def _field(
        self,
        each: FieldDescriptor,
        path: tuple[str, ...],
        nullable: bool,
        around: tuple[str, ...],
        node: int,
        oneof: int,
    ) -> None:
        fields, name, entries = self.found.fields, ".".join(path), self.entries[node]
        within = each.message_type if each.type == _MESSAGE else None
        if each.is_repeated:
            self.found.left_out[name] = "a repeated field"
        elif within is not None and within.full_name not in around:
            optional = not each.is_required
            child = self.message(within, path, nullable or optional, around, node)
            if each.is_required:
                self.required.append(Required(name, node, -1, child))
            entries.append((each.number, MESSAGE, child, oneof, 0))
            return
        elif each.type in _LEAVES:
            code, kind = _LEAVES[each.type]
            first = 0
            if each.type == _ENUM and each.enum_type.is_closed:
                code, first = CLOSED_ENUM, len(self.allowed)
                numbers = [value.number for value in each.enum_type.values]
                self.allowed += [len(numbers), *numbers]
            if not each.has_presence:
                self.implicit.append((len(fields), node))
            if each.is_required:
                self.required.append(Required(name, node, len(fields), -1))
            entries.append((each.number, code, len(fields), oneof, first))
            absent = each.has_presence and not each.is_required
            fields.append(EventField(name, path, kind, nullable or absent))
            return
        else:
            self.found.left_out[name] = _NAMES.get(each.type, "of an unknown type")
        if oneof >= 0:
            # No column, but where it is set the others of its oneof are not.
            entries.append((each.number, SKIP, 0, oneof, _FORMS.get(each.type, -1)))


def describe(message: Any) -> bytes:
    """Serialised FileDescriptorSet of a descriptor's file and all that it imports."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    found = FileDescriptorSet()
    seen: set[str] = set()

    def add(file: Any) -> None:
        if file.name in seen:
            return
        seen.add(file.name)
        for each in file.dependencies:
            add(each)
        found.file.add().ParseFromString(file.serialized_pb)

    add(message.file)
    return found.SerializeToString(deterministic=True)


def find_message(files: bytes, name: str) -> Any:
    """The descriptor of a message type, from what `describe` returned."""
    from google.protobuf.descriptor_pb2 import FileDescriptorSet
    from google.protobuf.descriptor_pool import DescriptorPool

    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(files).file:
        pool.Add(file)
    return pool.FindMessageTypeByName(name)
