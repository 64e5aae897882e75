"""Puts a program together step by step: unions, and values that nobody wants and are read over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from streamsvc.events.avro.program import (
    BLOCKS,
    CALL,
    CONSTANT_TEXT,
    END,
    JUMP,
    LOOP,
    MISMATCH,
    RETURN,
    SKIP_BYTES,
    SKIP_INT,
    SKIP_SYMBOL,
    SKIP_TEXT,
    STEP_WORDS,
    SYMBOL,
    UNION,
    Program,
)
from streamsvc.events.avro.schema import AvroType

__all__ = ["Assembler"]

_MAX_STEPS: Final = 100_000


class Assembler:
    """A program that is being made."""

    def __init__(self) -> None:
        self.label = ""
        """The writer's field that the steps to come read, by dotted path."""
        self._steps: list[list[int]] = []
        self._labels: list[str] = []
        self._jumps: list[int] = []
        self._texts: list[bytes] = []
        self._whys: list[str] = []
        self._calls: list[tuple[int, AvroType]] = []
        self._takes_bytes: dict[AvroType, bool] = {}

    def emit(self, *step: int) -> int:
        """Append a step; returns its place. Raises ValueError for too many."""
        if len(self._steps) >= _MAX_STEPS:
            raise ValueError("The Avro schema is too large.")
        self._steps.append([*step, 0, 0, 0][:STEP_WORDS])
        self._labels.append(self.label)
        return len(self._steps) - 1

    def mismatch(self, why: str) -> None:
        """Refuse a record that comes to this place; `why` is a sentence without its full stop."""
        self._whys.append(f"{why}.")
        self.emit(MISMATCH, len(self._whys) - 1)

    def text(self, text: bytes) -> int:
        """Keep a text that columns may point to; returns its number, one more than the last."""
        self._texts.append(text)
        return len(self._texts) - 1

    def union(self, writer: AvroType, compile_branch: Callable[[AvroType], None]) -> None:
        """Read the branch that a record says; `compile_branch` appends the steps of one."""
        first = len(self._jumps)
        self.emit(UNION, first, len(writer.branches))
        self._jumps += [0] * len(writer.branches)
        empty, ends = [], []
        for k, branch in enumerate(writer.branches):
            start = self._jumps[first + k] = len(self._steps)
            compile_branch(branch)
            if len(self._steps) == start:
                empty.append(first + k)
            else:
                ends.append(self.emit(JUMP))
        if ends and ends[-1] == len(self._steps) - 1:
            # The last branch needs no jump to what follows it.
            self._steps.pop()
            self._labels.pop()
            ends.pop()
        for at in ends:
            self._steps[at][1] = len(self._steps)
        for jump in empty:
            self._jumps[jump] = len(self._steps)

    def skip(self, writer: AvroType) -> None:
        """Read over a value."""
        kind = writer.kind
        if kind in ("int", "long"):
            self.emit(SKIP_INT)
        elif kind in ("float", "double", "boolean", "fixed"):
            sizes = {"float": 4, "double": 8, "boolean": 1}
            self.emit(SKIP_BYTES, sizes.get(kind, writer.size))
        elif kind in ("bytes", "string"):
            self.emit(SKIP_TEXT)
        elif kind == "enum":
            self.emit(SKIP_SYMBOL, len(writer.symbols))
        elif kind == "union":
            self.union(writer, self.skip)
        elif kind == "record":
            if self._has_bytes(writer):
                # Once for all places, which also lets a record contain itself.
                self._calls.append((self.emit(CALL), writer))
        elif kind in ("array", "map"):
            assert writer.items is not None
            start = self.emit(BLOCKS)
            body = len(self._steps)
            if kind == "map":
                self.emit(SKIP_TEXT)
            self.skip(writer.items)
            self.emit(LOOP, body)
            self._steps[start][1] = len(self._steps)

    def _has_bytes(self, type_: AvroType) -> bool:
        """Whether a value takes any. Records of nothing within records of nothing would take time
        without end and no bytes: such steps are left out, so that what is left of a record is
        bounded by its bytes."""
        if type_.kind == "fixed":
            return type_.size > 0
        if type_.kind != "record":
            return type_.kind != "null"
        known = self._takes_bytes.get(type_)
        if known is None:
            # Within itself it counts as bytes: a record that cannot end is refused where it is met.
            self._takes_bytes[type_] = True
            known = any(self._has_bytes(each.type) for each in type_.fields)
            self._takes_bytes[type_] = known
        return known

    def program(self) -> Program:
        """End the records here, and append what is called."""
        self.emit(END)
        routines: dict[AvroType, int] = {}
        while self._calls:
            at, record = self._calls.pop()
            if record not in routines:
                routines[record] = len(self._steps)
                for each in record.fields:
                    self.label = f"{record.name}.{each.name}"
                    self.skip(each.type)
                self.emit(RETURN)
            self._steps[at][1] = routines[record]
        steps = np.array(self._steps, np.int64)
        ends = np.cumsum([0, *(len(t) for t in self._texts)], dtype=np.int64)
        codes = steps[:, 0]
        return Program(
            steps,
            np.array(self._jumps, np.int64),
            np.frombuffer(b"".join(self._texts), np.uint8),
            ends[:-1],
            ends[1:],
            tuple(self._labels),
            tuple(self._whys),
            bool(((codes == SYMBOL) | (codes == CONSTANT_TEXT)).any()),
        )
