"""What an interpreter runs for each record: a flat list of steps.

A step is a code and up to three operands. The steps that read a value name where it goes: the
first row of the word matrix that it takes (its slot), and the field's own index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from streamsvc.columns import I64, U8

__all__ = ["STEP_WORDS", "Program"]


# The codes, and what their operands are.
END: Final = 0
INT: Final = 1  # slot, field
INT_AS_FLOAT: Final = 2  # slot, field
FLOAT: Final = 3  # slot, field
DOUBLE: Final = 4  # slot, field
BOOL: Final = 5  # slot, field
TEXT: Final = 6  # slot, field
SYMBOL: Final = 7  # slot, field, first text; the next step's first operand is their number
CONSTANT: Final = 8  # slot, field, word
CONSTANT_TEXT: Final = 9  # slot, field, text
UNION: Final = 10  # first jump, jumps
JUMP: Final = 11  # step
SKIP_INT: Final = 12
SKIP_BYTES: Final = 13  # bytes
SKIP_TEXT: Final = 14
SKIP_SYMBOL: Final = 15  # symbols
BLOCKS: Final = 16  # step behind the loop
LOOP: Final = 17  # first step of the body
CALL: Final = 18  # step
RETURN: Final = 19
MISMATCH: Final = 20  # why

STEP_WORDS: Final = 4


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """Steps for the records of one writer's schema."""

    steps: I64
    """Shape (m, 4)."""
    jumps: I64
    """Where the branches of unions start."""
    text: U8
    """Symbols and defaults, one after the other."""
    text_start: I64
    text_end: I64
    labels: tuple[str, ...]
    """The writer's field that each step reads, by dotted path; length m."""
    whys: tuple[str, ...]
    """What each MISMATCH step says."""
    uses_text: bool
    """Whether a column can point into `text`."""
