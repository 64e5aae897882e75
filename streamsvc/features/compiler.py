"""Aggregates into a program: what each group of tiles keeps, and what is made of it.

Windows with the same hop share a group. Functions on the same column share what they can: all
percentiles one sketch, sum and mean one sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamsvc.columns import I64
from streamsvc.definitions.functions import percent_of
from streamsvc.definitions.plan import Aggregate
from streamsvc.features.kernels.program import (
    DISTINCT,
    ENTRY_WORDS,
    EXTRA_WIDTH,
    EXTRA_WORDS,
    FLOATS,
    FUNCTIONS,
    HAS_FIRST,
    HAS_INT_SUM,
    HAS_LAST,
    HAS_MAX,
    HAS_MIN,
    HAS_MOMENTS,
    HAS_SUM,
    LATEST,
    NULLS,
    OUTPUT_WORDS,
    PERCENTILES,
    TEXT_FIRST,
    TEXT_LAST,
    TEXT_MAX,
    TEXT_MIN,
    TEXTS,
    WORDS,
    Program,
)

__all__ = ["compile_program"]

_CODES = {name: code for code, name in enumerate(FUNCTIONS)}


def compile_program(
    aggregates: Sequence[Aggregate], columns: tuple[str, ...], kinds: tuple[int, ...]
) -> Program:
    """The program of valid aggregates, sorted by feature, over columns of these kinds."""
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
