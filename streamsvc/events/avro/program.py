"""Writer's schema and declared schema → a program that reads the writer's records into columns.

Avro binary has no names and no lengths: a record can only be read in the writer's order, with every
field that nobody wants read over. So each pair of schemas is compiled once to a flat list of steps,
which `interpreter` runs for each record. Schema resolution follows the Avro specification 1.12, and
is wider in four places, each because our columns are: any width of integer or float may replace
another; a nullable field that the writer does not have is null also where no default says so; text,
bytes of UTF-8 and symbols of an enum are all text; names of records do not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from streamsvc.columns import I64, U8
from streamsvc.definitions.plan import EventField
from streamsvc.events.avro.columns import LEAVES, TIME_UNITS, without_null
from streamsvc.events.avro.schema import MISSING, AvroField, AvroType

__all__ = ["Program", "compile_program"]

# The steps: code, then up to three operands.
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

MAX_STEPS: Final = 100_000
_WIDTH: Final = 4
_MAX_DEPTH: Final = 64


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


def compile_program(
    writer: AvroType, declared: AvroType, fields: Sequence[EventField], slots: I64
) -> Program:
    """The program that fills the columns `fields`, whose words start at `slots`.

    Where the two schemas do not go together, the program says so record by record: a record that
    does not come to that place is read. Raises ValueError for schemas too large to compile.
    """
    compiler = _Compiler(fields, slots)
    compiler.value(writer, declared, ())
    compiler.emit(END)
    compiler.finish()
    steps = np.array(compiler.steps, np.int64)
    ends = np.cumsum([0, *(len(t) for t in compiler.texts)], dtype=np.int64)
    codes = steps[:, 0]
    return Program(
        steps,
        np.array(compiler.jumps, np.int64),
        np.frombuffer(b"".join(compiler.texts), np.uint8),
        ends[:-1],
        ends[1:],
        tuple(compiler.labels),
        tuple(compiler.whys),
        bool(((codes == SYMBOL) | (codes == CONSTANT_TEXT)).any()),
    )


class _Compiler:
    def __init__(self, fields: Sequence[EventField], slots: I64) -> None:
        self.steps: list[list[int]] = []
        self.labels: list[str] = []
        self.jumps: list[int] = []
        self.texts: list[bytes] = []
        self.whys: list[str] = []
        self._columns = {f.path: (int(slots[i]), i, f) for i, f in enumerate(fields)}
        self._objects = {f.path[:depth] for f in fields for depth in range(len(f.path))}
        self._label = ""
        self._calls: list[tuple[int, AvroType]] = []
        self._depth = 0

    # --- values that are wanted ------------------------------------------------------------

    def value(self, writer: AvroType, declared: AvroType, path: tuple[str, ...]) -> None:
        """Read a value that the writer wrote as `writer` into the columns at or below `path`."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("The Avro schema is nested too deep.")
        wanted, nullable = without_null(declared)
        if writer.kind == "union":
            self._union(writer, lambda branch: self.value(branch, declared, path))
        elif writer.kind == "null":
            if not nullable:
                self._mismatch(
                    f"Field {self._label!r} is null, which the declared schema rules out"
                )
        elif wanted.kind == "record":
            if writer.kind == "record":
                self._record(writer, wanted, path)
            else:
                self._differs(writer, wanted)
        else:
            self._leaf(writer, wanted, path)
        self._depth -= 1

    def _record(self, writer: AvroType, declared: AvroType, path: tuple[str, ...]) -> None:
        around = self._label
        written = {f.name for f in writer.fields}
        wanted: dict[str, AvroField] = {}
        missing: list[AvroField] = []
        for each in declared.fields:
            if not self._is_wanted((*path, each.name)):
                continue
            source = next((n for n in (each.name, *each.aliases) if n in written), None)
            if source is None or source in wanted:
                missing.append(each)
            else:
                wanted[source] = each
        for each in writer.fields:
            self._label = f"{around}.{each.name}" if around else each.name
            target = wanted.get(each.name)
            if target is None:
                self._skip(each.type)
            else:
                self.value(each.type, target.type, (*path, target.name))
        for each in missing:
            self._label = f"{around}.{each.name}" if around else each.name
            self._default(each.type, each.default, (*path, each.name))
        self._label = around

    def _leaf(self, writer: AvroType, declared: AvroType, path: tuple[str, ...]) -> None:
        slot, index, field = self._columns[path]
        unit, wanted = TIME_UNITS.get(writer.logical), TIME_UNITS.get(declared.logical)
        if unit is not None and wanted is not None and unit != wanted:
            self._mismatch(
                f"Field {self._label!r} is {writer.logical} in the writer's schema, but "
                f"{declared.logical} in the declared one"
            )
            return
        kind = LEAVES.get(writer.kind, "string" if writer.kind == "bytes" else None)
        if field.type == "float64" and kind == "int64":
            self.emit(INT_AS_FLOAT, slot, index)
        elif kind != field.type:
            self._differs(writer, declared)
        elif writer.kind == "enum":
            self._symbols(writer, declared, slot, index)
        else:
            code = {"int64": INT, "bool": BOOL, "string": TEXT}.get(
                field.type, FLOAT if writer.kind == "float" else DOUBLE
            )
            self.emit(code, slot, index)

    def _symbols(self, writer: AvroType, declared: AvroType, slot: int, index: int) -> None:
        first = len(self.texts)
        default = declared.default_symbol
        for symbol in writer.symbols:
            known = declared.kind != "enum" or default is None or symbol in declared.symbols
            self.texts.append((symbol if known else str(default)).encode())
        self.emit(SYMBOL, slot, index, first)
        self.emit(END, len(writer.symbols))

    def _default(self, declared: AvroType, default: Any, path: tuple[str, ...]) -> None:
        """Fill the columns at or below `path` with the default of a field that nobody wrote."""
        wanted, nullable = without_null(declared)
        if default is None or (default is MISSING and nullable):
            if not nullable:
                self._no_default(path, "null, which its type rules out")
        elif default is MISSING:
            self._no_default(path, "missing")
        elif wanted.kind == "record":
            if not isinstance(default, dict):
                self._no_default(path, "not an object")
                return
            for each in wanted.fields:
                here = (*path, each.name)
                if self._is_wanted(here):
                    self._default(each.type, default.get(each.name, each.default), here)
        else:
            self._constant(default, path)

    def _constant(self, default: Any, path: tuple[str, ...]) -> None:
        value: Any = default
        slot, index, field = self._columns[path]
        takes: tuple[type, ...] = {
            "int64": (int,),
            "float64": (int, float),
            "bool": (bool,),
            "string": (str,),
        }[field.type]
        is_bool = isinstance(default, bool) and field.type != "bool"
        if not isinstance(default, takes) or is_bool:
            self._no_default(path, f"not a {field.type}")
        elif field.type == "string":
            self.texts.append(value.encode("utf-8", "replace"))
            self.emit(CONSTANT_TEXT, slot, index, len(self.texts) - 1)
        elif field.type == "float64":
            self.emit(CONSTANT, slot, index, int(np.float64(value).view(np.int64)))
        elif abs(value) < 2**63:
            self.emit(CONSTANT, slot, index, int(value))
        else:
            self._no_default(path, "beyond 64 bits")

    def _is_wanted(self, path: tuple[str, ...]) -> bool:
        return path in self._columns or path in self._objects

    def _no_default(self, path: tuple[str, ...], what: str) -> None:
        self._mismatch(
            f"The writer's schema has no field {self._label!r}, and the default that the declared "
            f"schema has for {'.'.join(path)!r} is {what}"
        )

    def _differs(self, writer: AvroType, declared: AvroType) -> None:
        where = f"Field {self._label!r}" if self._label else "The record"
        self._mismatch(
            f"{where} is {writer} in the writer's schema, but {declared} in the declared one"
        )

    def _mismatch(self, why: str) -> None:
        self.whys.append(f"{why}.")
        self.emit(MISMATCH, len(self.whys) - 1)

    # --- values that nobody wants ----------------------------------------------------------

    def _skip(self, writer: AvroType) -> None:
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
            self._union(writer, self._skip)
        elif kind == "record":
            # Once for all places, which also lets a record contain itself.
            self._calls.append((self.emit(CALL), writer))
        elif kind in ("array", "map"):
            assert writer.items is not None
            start = self.emit(BLOCKS)
            body = len(self.steps)
            if kind == "map":
                self.emit(SKIP_TEXT)
            self._skip(writer.items)
            self.emit(LOOP, body)
            self.steps[start][1] = len(self.steps)

    def finish(self) -> None:
        """Append the routines that calls need."""
        routines: dict[AvroType, int] = {}
        while self._calls:
            at, record = self._calls.pop()
            if record not in routines:
                routines[record] = len(self.steps)
                for each in record.fields:
                    self._label = f"{record.name}.{each.name}"
                    self._skip(each.type)
                self.emit(RETURN)
            self.steps[at][1] = routines[record]

    # --- both ------------------------------------------------------------------------------

    def _union(self, writer: AvroType, compile_branch: Any) -> None:
        first = len(self.jumps)
        self.emit(UNION, first, len(writer.branches))
        self.jumps += [0] * len(writer.branches)
        empty, ends = [], []
        for k, branch in enumerate(writer.branches):
            start = self.jumps[first + k] = len(self.steps)
            compile_branch(branch)
            if len(self.steps) == start:
                empty.append(first + k)
            else:
                ends.append(self.emit(JUMP))
        if ends and ends[-1] == len(self.steps) - 1:
            # The last branch needs no jump to what follows it.
            self.steps.pop()
            self.labels.pop()
            ends.pop()
        for at in ends:
            self.steps[at][1] = len(self.steps)
        for jump in empty:
            self.jumps[jump] = len(self.steps)

    def emit(self, *step: int) -> int:
        """Append a step; returns its place."""
        if len(self.steps) >= MAX_STEPS:
            raise ValueError("The Avro schema is too large.")
        self.steps.append([*step, 0, 0, 0][:_WIDTH])
        self.labels.append(self._label)
        return len(self.steps) - 1
