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
from streamsvc.definitions.functions import FUNCTIONS, is_function, percent_of, takes
from streamsvc.definitions.plan import Aggregate, FieldType
from streamsvc.errors import DefinitionError
from streamsvc.features.arrays import read_only
from streamsvc.features.kernels.program import (
    DISTINCT,
    ENTRY_WORDS,
    EXTRA_WIDTH,
    EXTRA_WORDS,
    FLOATS,
    HAS_FIRST,
    HAS_INT_SUM,
    HAS_LAST,
    HAS_MAX,
    HAS_MIN,
    HAS_MOMENTS,
    HAS_SUM,
    INTS,
    LATEST,
    NULLS,
    OUTPUT_WORDS,
    PERCENTILES,
    TEXT_BITS,
    TEXT_FIRST,
    TEXT_LAST,
    TEXT_MAX,
    TEXT_MIN,
    TEXTS,
    WORDS,
    Program,
)
from streamsvc.features.kernels.program import FUNCTIONS as PLAIN

__all__ = ["WindowSpec"]

_ANY = {"count"}
"""Functions that look at a value only to see whether it is null."""
_CODES = {name: code for code, name in enumerate(PLAIN)}


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
            program=_compile(aggregates, columns, kinds),
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


def _extra(function: str, kind: int) -> int | None:
    """Which accumulator beside the plain ones a function needs, None for none."""
    if function == "count_distinct":
        return DISTINCT
    if function == "latest":
        return LATEST
    if percent_of(function) is not None:
        return PERCENTILES
    if kind == TEXTS and function != "count":
        return {"min": TEXT_MIN, "max": TEXT_MAX, "first": TEXT_FIRST, "last": TEXT_LAST}[function]
    return None


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
    build = _Build(aggregates, columns, kinds)
    for hop in sorted({a.hop_ms for a in aggregates}):
        build.add_group(hop)
    return build.program()


class _Build:
    """The arrays of a program while its groups are added, shortest hop first."""

    def __init__(
        self, aggregates: Sequence[Aggregate], columns: tuple[str, ...], kinds: tuple[int, ...]
    ) -> None:
        self._aggregates = aggregates
        self._columns = columns
        self._kinds = kinds
        self._hops: list[int] = []
        self._stride: list[int] = []
        self._window: list[int] = []
        self._entries: list[list[int]] = []
        self._extras: list[list[int]] = []
        self._outputs: list[tuple[int, int]] = []
        self._first_window, self._first_entry = [0], [0]
        self._first_extra, self._first_output = [0], [0]

    def add_group(self, hop: int) -> None:
        """The windows of one hop: their tiles' words, and what is made of them."""
        of_group = [(i, a) for i, a in enumerate(self._aggregates) if a.hop_ms == hop]
        windows = sorted({a.window_ms for _, a in of_group})
        width = 1
        plain: dict[str, list[tuple[int, Aggregate]]] = {}
        extras: dict[tuple[str, int], list[tuple[int, Aggregate]]] = {}
        for i, a in of_group:
            extra = _extra(a.function, self._kinds[self._columns.index(a.column)])
            if extra is None:
                plain.setdefault(a.column, []).append((i, a))
            else:
                extras.setdefault((a.column, extra), []).append((i, a))
        for column, wanted in sorted(plain.items()):
            at = self._columns.index(column)
            # Of text beside which there are extras, the entry knows no more than its nulls.
            kind = NULLS if self._kinds[at] == TEXTS else self._kinds[at]
            mask = _mask({a.function for _, a in wanted}, kind)
            entry = [at, kind, width]
            width += 1
            for bit, words in WORDS:
                entry.append(width if mask & bit else -1)
                width += words if mask & bit else 0
            self._entries.append([*entry, self._runs(windows, wanted)])
        for (column, extra), wanted in sorted(extras.items()):
            at = self._columns.index(column)
            handle = {TEXT_FIRST: 3, TEXT_LAST: 3, LATEST: 3}.get(extra, 0)
            has_payload = extra != LATEST or self._kinds[at] == TEXTS
            place = width + handle if has_payload else -1
            run = self._runs(windows, wanted)
            self._extras.append([extra, at, self._kinds[at], width, place, run])
            width += EXTRA_WIDTH[extra]
        self._hops.append(hop)
        self._stride.append(width)
        self._window += windows
        self._first_window.append(len(self._window))
        self._first_entry.append(len(self._entries))
        self._first_extra.append(len(self._extras))

    def _runs(self, windows: Sequence[int], wanted: Sequence[tuple[int, Aggregate]]) -> int:
        """Outputs of one accumulator, window by window; the number of their first run."""
        first = len(self._first_output) - 1
        for length in windows:
            for position, a in wanted:
                if a.window_ms == length:
                    percent = percent_of(a.function)
                    code = percent if percent is not None else _CODES.get(a.function, 0)
                    self._outputs.append((code, position))
            self._first_output.append(len(self._outputs))
        return first

    def program(self) -> Program:
        """The arrays."""

        def table(rows: Sequence[Sequence[int]], words: int) -> I64:
            return np.array(rows, np.int64).reshape(-1, words)

        def row(numbers: Sequence[int]) -> I64:
            return np.array(numbers, np.int64)

        return Program(
            hop=row(self._hops),
            stride=row(self._stride),
            first_window=row(self._first_window),
            first_entry=row(self._first_entry),
            window=row(self._window),
            entries=table(self._entries, ENTRY_WORDS),
            first_extra=row(self._first_extra),
            extras=table(self._extras, EXTRA_WORDS),
            first_output=row(self._first_output),
            outputs=table(self._outputs, OUTPUT_WORDS),
            span=row([min(self._window), max(self._window)]),
        )
