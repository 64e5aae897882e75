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
from typing import Any, Final

import numpy as np

from streamsvc.columns import I64
from streamsvc.definitions.plan import EventField
from streamsvc.events.avro.assembler import Assembler
from streamsvc.events.avro.columns import LEAVES, TIME_UNITS, without_null
from streamsvc.events.avro.program import (
    BOOL,
    CONSTANT,
    CONSTANT_TEXT,
    DOUBLE,
    END,
    FLOAT,
    INT,
    INT_AS_FLOAT,
    SYMBOL,
    TEXT,
    Program,
)
from streamsvc.events.avro.schema import MISSING, AvroField, AvroType

__all__ = ["compile_program"]

_MAX_DEPTH: Final = 64


def compile_program(
    writer: AvroType, declared: AvroType, fields: Sequence[EventField], slots: I64
) -> Program:
    """The program that fills the columns `fields`, whose words start at `slots`.

    Where the two schemas do not go together, the program says so record by record: a record that
    does not come to that place is read. Raises ValueError for schemas too large to compile.
    """
    made = Assembler()
    _Resolution(made, fields, slots).value(writer, declared, ())
    return made.program()


class _Resolution:
    """Appends the steps of what is wanted, and lets the rest be read over."""

    def __init__(self, made: Assembler, fields: Sequence[EventField], slots: I64) -> None:
        self._made = made
        self._columns = {f.path: (int(slots[i]), i, f) for i, f in enumerate(fields)}
        self._objects = {f.path[:depth] for f in fields for depth in range(len(f.path))}
        self._depth = 0

    def value(self, writer: AvroType, declared: AvroType, path: tuple[str, ...]) -> None:
        """Read a value that the writer wrote as `writer` into the columns at or below `path`."""
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise ValueError("The Avro schema is nested too deep.")
        wanted, nullable = without_null(declared)
        if writer.kind == "union":
            self._made.union(writer, lambda branch: self.value(branch, declared, path))
        elif writer.kind == "null":
            if not nullable:
                self._made.mismatch(
                    f"Field {self._made.label!r} is null, which the declared schema rules out"
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
        around = self._made.label
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
            self._made.label = f"{around}.{each.name}" if around else each.name
            target = wanted.get(each.name)
            if target is None:
                self._made.skip(each.type)
            else:
                self.value(each.type, target.type, (*path, target.name))
        for each in missing:
            self._made.label = f"{around}.{each.name}" if around else each.name
            self._default(each.type, each.default, (*path, each.name))
        self._made.label = around

    def _leaf(self, writer: AvroType, declared: AvroType, path: tuple[str, ...]) -> None:
        slot, index, field = self._columns[path]
        unit, wanted = TIME_UNITS.get(writer.logical), TIME_UNITS.get(declared.logical)
        if unit is not None and wanted is not None and unit != wanted:
            self._made.mismatch(
                f"Field {self._made.label!r} is {writer.logical} in the writer's schema, but "
                f"{declared.logical} in the declared one"
            )
            return
        kind = LEAVES.get(writer.kind, "string" if writer.kind == "bytes" else None)
        if field.type == "float64" and kind == "int64":
            self._made.emit(INT_AS_FLOAT, slot, index)
        elif kind != field.type:
            self._differs(writer, declared)
        elif writer.kind == "enum":
            self._symbols(writer, declared, slot, index)
        else:
            code = {"int64": INT, "bool": BOOL, "string": TEXT}.get(
                field.type, FLOAT if writer.kind == "float" else DOUBLE
            )
            self._made.emit(code, slot, index)

    def _symbols(self, writer: AvroType, declared: AvroType, slot: int, index: int) -> None:
        texts, default = [], declared.default_symbol
        for symbol in writer.symbols:
            known = declared.kind != "enum" or default is None or symbol in declared.symbols
            texts.append(self._made.text((symbol if known else str(default)).encode()))
        self._made.emit(SYMBOL, slot, index, texts[0] if texts else 0)
        self._made.emit(END, len(writer.symbols))

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
            text = self._made.text(value.encode("utf-8", "replace"))
            self._made.emit(CONSTANT_TEXT, slot, index, text)
        elif field.type == "float64":
            try:
                number = np.float64(value)
            except OverflowError:
                self._no_default(path, "beyond a double")
                return
            self._made.emit(CONSTANT, slot, index, int(number.view(np.int64)))
        elif -(2**63) <= value < 2**63:
            self._made.emit(CONSTANT, slot, index, int(value))
        else:
            self._no_default(path, "beyond 64 bits")

    def _is_wanted(self, path: tuple[str, ...]) -> bool:
        return path in self._columns or path in self._objects

    def _no_default(self, path: tuple[str, ...], what: str) -> None:
        self._made.mismatch(
            f"The writer's schema has no field {self._made.label!r}, and the default that the "
            f"declared schema has for {'.'.join(path)!r} is {what}"
        )

    def _differs(self, writer: AvroType, declared: AvroType) -> None:
        where = f"Field {self._made.label!r}" if self._made.label else "The record"
        self._made.mismatch(
            f"{where} is {writer} in the writer's schema, but {declared} in the declared one"
        )
