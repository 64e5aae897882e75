"""WindowSpec: a view's aggregates, compiled into small integer arrays that kernels interpret.

Windows with the same hop share a *group* of tiles. Per group and aggregated column there is one
*entry*: the accumulators that the group's functions need, and no others. Kernels read the spec
as data, so that every view runs the same machine code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64, U8, BytesColumn, Columns, NumericColumn
from streamsvc.definitions.functions import FUNCTIONS, is_function, takes
from streamsvc.definitions.plan import Aggregate, FieldType
from streamsvc.errors import DefinitionError
from streamsvc.features.arrays import read_only
from streamsvc.features.compiler import compile_program
from streamsvc.features.kernels.program import FLOATS, INTS, NULLS, TEXT_BITS, TEXTS, Program

__all__ = ["WindowSpec"]

_ANY = {"count"}
"""Functions that look at a value only to see whether it is null."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowSpec:
    """Aggregates of one view, ready to run. Build it with `of`."""

    features: tuple[str, ...]
    """Sorted; the order of every array that has a row per feature."""
    types: Mapping[str, FieldType]
    """Type of each feature's values: count and sum of int64 or bool are int64; min, max, first
    and last have the column's type; everything else is float64."""
    columns: tuple[str, ...]
    """Input columns, sorted."""
    kinds: tuple[int, ...]
    functions: tuple[str, ...]
    """Function of each feature."""
    program: Program

    @classmethod
    def of(
        cls, aggregates: Sequence[Aggregate], column_types: Mapping[str, FieldType]
    ) -> WindowSpec:
        """Compile. Raises DefinitionError that names every aggregate that cannot run."""
        aggregates = sorted(aggregates, key=lambda a: a.feature)
        mistakes = [m for a in aggregates for m in _mistakes(a, column_types)]
        if not aggregates:
            mistakes = ["a windowed view needs at least one aggregate"]
        if mistakes:
            raise DefinitionError(mistakes)
        columns = tuple(sorted({a.column for a in aggregates}))
        counted = {c for c in columns if {a.function for a in aggregates if a.column == c} <= _ANY}
        kinds = tuple(_kind(column_types[c], c in counted) for c in columns)
        return cls(
            features=tuple(a.feature for a in aggregates),
            types={a.feature: _result_type(a, column_types[a.column]) for a in aggregates},
            columns=columns,
            kinds=kinds,
            functions=tuple(a.function for a in aggregates),
            program=compile_program(aggregates, columns, kinds),
        )

    @property
    def counts(self) -> tuple[int, ...]:
        """Positions of the features that are 0, not null, of nothing."""
        return tuple(i for i, f in enumerate(self.functions) if f in ("count", "count_distinct"))

    def words(self, columns: Columns, n: int) -> tuple[I64, U8, U8]:
        """The input as kernels take it: int64 words and validity, each (columns, n), and text.

        A word of a text column says where in the text it starts, and how long it is.
        """
        words = np.zeros((len(self.columns), n), np.int64)
        valid = np.empty((len(self.columns), n), np.uint8)
        texts: list[U8] = []
        for i, (name, kind) in enumerate(zip(self.columns, self.kinds, strict=True)):
            column = columns[name]
            valid[i] = column.valid
            if kind == NULLS:
                continue
            if kind == TEXTS:
                if not isinstance(column, BytesColumn):
                    raise TypeError(f"column {name!r} holds numbers, and the spec says strings")
                words[i] = _text_words(column, texts)
                continue
            if not isinstance(column, NumericColumn):
                raise TypeError(f"column {name!r} holds strings, and the spec says numbers")
            if kind == FLOATS:
                words[i].view(np.float64)[:] = column.values
            elif column.values.dtype.kind in "ib":
                words[i] = column.values
            else:
                raise TypeError(f"column {name!r} is {column.values.dtype}, the spec says int64")
        if len(texts) == 1:
            return words, valid, read_only(texts[0])
        return words, valid, read_only(np.concatenate(texts) if texts else np.empty(0, np.uint8))


def _text_words(column: BytesColumn, texts: list[U8]) -> I64:
    """Words of a text column; its bytes are added to `texts` unless they are there already."""
    shift = 0
    for known in texts:
        if known is column.data:
            break
        shift += len(known)
    else:
        texts.append(column.data)
    return (column.start + shift) << TEXT_BITS | (column.end - column.start)


def _mistakes(a: Aggregate, column_types: Mapping[str, FieldType]) -> Iterable[str]:
    if a.column not in column_types:
        yield f"{a.feature}: there is no column {a.column!r}; there are {sorted(column_types)}"
        return
    if not is_function(a.function):
        yield f"{a.feature}: unknown function {a.function!r}; known are {', '.join(FUNCTIONS)}"
    elif not takes(a.function, column_types[a.column]):
        yield f"{a.feature}: {a.function} does not take the {column_types[a.column]} {a.column!r}"
    if a.hop_ms < 1 or a.window_ms < 1:
        yield f"{a.feature}: window and hop must be at least 1 ms"


def _kind(field_type: FieldType, counted: bool) -> int:
    if field_type == "string":
        return NULLS if counted else TEXTS
    return FLOATS if field_type == "float64" else INTS


def _result_type(a: Aggregate, column: FieldType) -> FieldType:
    if a.function in ("count", "count_distinct"):
        return "int64"
    if a.function == "sum":
        return "float64" if column == "float64" else "int64"
    if a.function in ("min", "max", "first", "last", "latest"):
        return column
    return "float64"
