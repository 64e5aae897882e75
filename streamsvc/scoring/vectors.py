"""Rows of the store → the float32 matrix that the model takes, and how true each vector is.

A row is f(k, t) for every as_of <= t < valid_until. At a request's time outside of that, the vector
says so: `stale_ms` where the value had changed by then, `ahead_ms` where it holds something later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from streamsvc.columns import I64, Bools, BytesColumn, Column, Columns, NumericColumn
from streamsvc.scoring.inputs import Block, ServiceInputs, ViewInput
from streamsvc.scoring.model import F32
from streamsvc.scoring.on_demand import run_on_demand
from streamsvc.store.row import Rows

__all__ = ["NO_ROW", "Position", "Vectors", "assemble"]

NO_ROW = -1
"""Incarnation, offset and as_of in a position where the store held no row."""


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """Where the rows of one view stood, one per request; shape (n,), -1 without a row."""

    incarnation: I64
    offset: I64
    as_of: I64


@dataclass(frozen=True, slots=True, eq=False)
class Vectors:
    """n vectors in the order of the features that they were put together for."""

    matrix: F32
    """Shape (n, features), C order, NaN for missing."""
    as_of: I64
    """The latest as_of of the rows in a vector; -1 where there was no row at all."""
    stale_ms: I64
    ahead_ms: I64
    positions: Mapping[str, Position]
    missing: Mapping[str, int]
    """View -> how many requests named an entity that the store does not hold."""
    failed: Mapping[int, str]
    """Row -> why an on-demand view failed on it."""
    kept: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """View whose rows are kept -> how many were known, and how many entities were asked for."""

    def take(self, rows: I64) -> Vectors:
        """These rows alone."""
        return Vectors(
            self.matrix[rows],
            self.as_of[rows],
            self.stale_ms[rows],
            self.ahead_ms[rows],
            {
                name: Position(p.incarnation[rows], p.offset[rows], p.as_of[rows])
                for name, p in self.positions.items()
            },
            self.missing,
            {},
            self.kept,
        )

    def select(self, columns: I64) -> Vectors:
        """These columns of the matrix alone, in this order."""
        return replace(self, matrix=np.ascontiguousarray(self.matrix[:, columns]))


@dataclass(frozen=True, slots=True, eq=False)
class _ViewRows:
    """A view's rows spread over the requests that name them."""

    view: ViewInput
    rows: Rows
    at: I64
    named: Bools
    present: Bools
    usable: Bools

    def numbers(self, block: Block) -> F32:
        """Features as float32, shape (n, features of the block); null is NaN.

        Raises TypeError for text.
        """
        m, n, k = len(self.rows), len(self.at), len(block.features)
        if not m:
            values = np.full((n, k), np.nan, np.float32)
        else:
            stored = np.empty((m, k), np.float32)
            null = np.empty((m, k), np.bool_)
            with np.errstate(over="ignore"):  # beyond float32 is infinity
                for i, feature in enumerate(block.features):
                    column = self.rows.values[feature]
                    if isinstance(column, BytesColumn):
                        raise TypeError(
                            f"{block.view}:{feature} is text, and a model takes numbers"
                        )
                    stored[:, i] = column.values
                    np.logical_not(column.valid, null[:, i])
            stored[null] = np.nan
            values = stored[self.at]
            values[~self.usable] = np.nan
        if len(block.counts):
            # An entity without a row has no event in any window: a count of 0 is what history says.
            values[np.ix_(self.named & ~self.present, block.counts)] = 0
        return values

    def column(self, feature: str) -> Column:
        """A feature for an on-demand view, one value per request."""
        column = self.rows.values[feature]
        if isinstance(column, BytesColumn):
            if not len(column):
                return _nothing(column, len(self.at))
            text = column.take(self.at)
            return BytesColumn(text.data, text.start, text.end, text.valid & self.usable)
        n = len(self.at)
        taken = NumericColumn(np.zeros(n, column.values.dtype), np.zeros(n, np.bool_))  # type: ignore[arg-type]
        if len(column):
            taken = column.take(self.at)
        valid = taken.valid & self.usable
        if feature in self.view.counts:
            unseen = self.named & ~self.present
            taken.values[unseen] = 0
            valid |= unseen
        return NumericColumn(taken.values, valid)


def assemble(
    inputs: ServiceInputs,
    request_time_ms: I64,
    columns: Columns,
    found: Mapping[str, tuple[Rows, I64]],
) -> Vectors:
    """Vectors of n requests.

    `columns` are the requests' own fields, for on-demand views; `found` has for every view the rows
    of its distinct entities and, shape (n,), which of them a request names (-1: none). Where an
    on-demand view fails on a row, `failed` says why.
    """
    n = len(request_time_ms)
    views = {v.name: _spread(v, *found[v.name], request_time_ms) for v in inputs.views}
    computed = {
        view.name: run_on_demand(
            view,
            n,
            columns,
            {ref.feature: views[ref.view].column(ref.feature) for ref in view.source_features},
        )
        for view in inputs.on_demand
    }
    matrix = np.empty((n, len(inputs.columns)), np.float32)
    for block in inputs.blocks:
        matrix[:, block.columns] = views[block.view].numbers(block)
    for j, ref in enumerate(inputs.columns):
        if ref.view in computed:
            matrix[:, j] = computed[ref.view].features[ref.feature]
    as_of = np.full(n, NO_ROW, np.int64)
    stale = np.zeros(n, np.int64)
    positions = {}
    for view in views.values():
        position = _position(view)
        positions[view.view.name] = position
        as_of = np.maximum(as_of, position.as_of)
        if len(view.rows):
            until = view.rows.valid_until[view.at]
            over = view.present & (request_time_ms >= until)
            stale = np.maximum(stale, np.where(over, request_time_ms - until + 1, 0))
    return Vectors(
        matrix=matrix,
        as_of=as_of,
        stale_ms=stale,
        ahead_ms=np.where(as_of == NO_ROW, 0, np.maximum(as_of - request_time_ms, 0)),
        positions=positions,
        missing={name: int(np.count_nonzero(v.named & ~v.present)) for name, v in views.items()},
        failed={row: why for c in computed.values() for row, why in c.failed.items()},
        kept={
            name: (v.rows.kept, len(v.rows)) for name, v in views.items() if v.rows.kept is not None
        },
    )


def _spread(view: ViewInput, rows: Rows, index: I64, request_time_ms: I64) -> _ViewRows:
    named = index >= 0
    at = np.where(named, index, 0)
    present = named & rows.present[at] if len(rows) else np.zeros(len(index), np.bool_)
    usable = present
    if view.ttl_ms is not None and len(rows):
        usable = present & (rows.as_of[at] >= request_time_ms - view.ttl_ms)
    return _ViewRows(view, rows, at, named, present, usable)


def _position(view: _ViewRows) -> Position:
    if not len(view.rows):
        nowhere = np.full(len(view.at), NO_ROW, np.int64)
        return Position(nowhere, nowhere, nowhere)
    incarnation, offset, as_of = (
        np.where(view.present, values[view.at], NO_ROW)
        for values in (view.rows.incarnation, view.rows.offset, view.rows.as_of)
    )
    return Position(incarnation, offset, as_of)


def _nothing(like: BytesColumn, n: int) -> BytesColumn:
    zero = np.zeros(n, np.int64)
    return BytesColumn(like.data, zero, zero, np.zeros(n, np.bool_))
