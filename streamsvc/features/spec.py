"""WindowSpec: a view's aggregates, compiled into small integer arrays that kernels interpret.

Windows with the same hop share a *group* of tiles. Per group and aggregated column there is one
*entry*: the accumulators that the group's functions need, and no others. Kernels read the spec
as data, so that every view runs the same machine code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64, U8, Columns, NumericColumn
from streamsvc.definitions.plan import Aggregate, FieldType
from streamsvc.errors import DefinitionError
from streamsvc.features.kernels.program import (
    ENTRY_WORDS,
    FLOATS,
    FUNCTIONS,
    HAS_FIRST,
    HAS_INT_SUM,
    HAS_LAST,
    HAS_MAX,
    HAS_MIN,
    HAS_MOMENTS,
    HAS_SUM,
    INTS,
    NULLS,
    OUTPUT_WORDS,
    WORDS,
    Program,
)

__all__ = ["WindowSpec"]


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
        kinds = tuple(_kind(column_types[c]) for c in columns)
        return cls(
            features=tuple(a.feature for a in aggregates),
            types={a.feature: _result_type(a, column_types[a.column]) for a in aggregates},
            columns=columns,
            kinds=kinds,
            program=_compile(aggregates, columns, kinds),
        )

    def words(self, columns: Columns, n: int) -> tuple[I64, U8]:
        """The input as kernels take it: int64 words and validity, each (columns, n)."""
        words = np.zeros((len(self.columns), n), np.int64)
        valid = np.empty((len(self.columns), n), np.uint8)
        for i, (name, kind) in enumerate(zip(self.columns, self.kinds, strict=True)):
            column = columns[name]
            valid[i] = column.valid
            if kind == NULLS:
                continue
            if not isinstance(column, NumericColumn):
                raise TypeError(f"column {name!r} holds strings, and the spec says numbers")
            if kind == FLOATS:
                words[i].view(np.float64)[:] = column.values
            elif column.values.dtype.kind in "ib":
                words[i] = column.values
            else:
                raise TypeError(f"column {name!r} is {column.values.dtype}, the spec says int64")
        return words, valid


def _mistakes(a: Aggregate, column_types: Mapping[str, FieldType]) -> Iterable[str]:
    if a.column not in column_types:
        yield f"{a.feature}: there is no column {a.column!r}; there are {sorted(column_types)}"
        return
    if a.function not in FUNCTIONS:
        yield f"{a.feature}: unknown function {a.function!r}; known are {', '.join(FUNCTIONS)}"
    elif column_types[a.column] == "string" and a.function != "count":
        yield f"{a.feature}: {a.function} over the string column {a.column!r}; only count can"
    if a.hop_ms < 1 or a.window_ms < 1:
        yield f"{a.feature}: window and hop must be at least 1 ms"


def _kind(field_type: FieldType) -> int:
    return {"string": NULLS, "int64": INTS, "bool": INTS, "float64": FLOATS}[field_type]


def _result_type(a: Aggregate, column: FieldType) -> FieldType:
    if a.function == "count":
        return "int64"
    if a.function == "sum":
        return "float64" if column == "float64" else "int64"
    if a.function in ("min", "max", "first", "last"):
        return column
    return "float64"


def _mask(functions: set[str], kind: int) -> int:
    mask = 0
    if "sum" in functions:
        mask |= HAS_SUM if kind == FLOATS else HAS_INT_SUM
    if "mean" in functions:
        # Not the running mean of the moments: a sum of whole numbers is the same in any order.
        mask |= HAS_SUM
    if functions & {"std", "var"}:
        mask |= HAS_MOMENTS
    for name, bit in (
        ("min", HAS_MIN),
        ("max", HAS_MAX),
        ("first", HAS_FIRST),
        ("last", HAS_LAST),
    ):
        mask |= bit if name in functions else 0
    return mask


def _compile(
    aggregates: Sequence[Aggregate], columns: tuple[str, ...], kinds: tuple[int, ...]
) -> Program:
    hops = sorted({a.hop_ms for a in aggregates})
    stride: list[int] = []
    window: list[int] = []
    entries: list[list[int]] = []
    outputs: list[tuple[int, int]] = []
    first_window, first_entry, first_output = [0], [0], [0]
    for hop in hops:
        of_group = [a for a in aggregates if a.hop_ms == hop]
        windows = sorted({a.window_ms for a in of_group})
        width = 1
        for column in sorted({a.column for a in of_group}):
            kind = kinds[columns.index(column)]
            mask = _mask({a.function for a in of_group if a.column == column}, kind)
            entry = [columns.index(column), kind, width]
            width += 1
            for bit, words in WORDS:
                entry.append(width if mask & bit else -1)
                width += words if mask & bit else 0
            entries.append([*entry, len(first_output) - 1])
            for length in windows:
                for position, a in enumerate(aggregates):
                    if (a.hop_ms, a.column, a.window_ms) == (hop, column, length):
                        outputs.append((FUNCTIONS.index(a.function), position))
                first_output.append(len(outputs))
        stride.append(width)
        window += windows
        first_window.append(len(window))
        first_entry.append(len(entries))
    return Program(
        hop=np.array(hops, np.int64),
        stride=np.array(stride, np.int64),
        first_window=np.array(first_window, np.int64),
        first_entry=np.array(first_entry, np.int64),
        window=np.array(window, np.int64),
        entries=np.array(entries, np.int64).reshape(-1, ENTRY_WORDS),
        first_output=np.array(first_output, np.int64),
        outputs=np.array(outputs, np.int64).reshape(-1, OUTPUT_WORDS),
        span=np.array([min(window), max(window)], np.int64),
    )
