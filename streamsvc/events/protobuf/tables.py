"""What the interpreter walks: a message type, and the messages within it, as small tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streamsvc.columns import I64

__all__ = ["Required", "Tables"]

# What is to be done with a field: read over, or put into a column as what it is, or gone into.
SKIP: Final = 0
INT64: Final = 1
UINT64: Final = 2
INT32: Final = 3
UINT32: Final = 4
SINT32: Final = 5
SINT64: Final = 6
BOOL: Final = 7
CLOSED_ENUM: Final = 8
FIXED64: Final = 9
SFIXED64: Final = 10
DOUBLE: Final = 11
FIXED32: Final = 12
SFIXED32: Final = 13
FLOAT: Final = 14
STRING: Final = 15
MESSAGE: Final = 16
SECONDS: Final = 17
NANOS: Final = 18


@dataclass(frozen=True, slots=True)
class Required:
    """A field without which its message is none (proto2)."""

    name: str
    """Dotted path."""
    within: int
    """Node of the message that it is required in."""
    field: int
    """-1 for a message."""
    node: int
    """Of a message; -1 for any other field."""


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Nodes are messages, 0 the record itself, numbered as they come, those within behind them.

    Entries are the fields of node k: `first[k] … first[k + 1] - 1`, by ascending number.
    """

    first: I64
    entries: I64
    """Shape (m, 5): number, what to do, field (of a message: its node), oneof or -1, and then: of a
    closed enum where its numbers are, of what is skipped the form in which it comes."""
    nodes: I64
    """Shape (nodes, 4): what lies within: end of its nodes, its first field, end of its fields, its
    parent."""
    allowed: I64
    """For each closed enum, how many numbers it has, and the numbers."""
    oneofs: int
    implicit: I64
    """Shape (k, 2): fields that are never null where their message, the second, is there."""
    required: tuple[Required, ...]
