"""Cuts on their way out of the worker: their rows made into bytes, a view's at once.

All of it is made from the cuts alone, so that the thread which owns the state may go on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from streamsvc.agents.topology import RunningView, ViewKey
from streamsvc.columns import I64, BytesColumn
from streamsvc.features.emission import Emission
from streamsvc.state.changelog import encode_commit
from streamsvc.state.cut import Cut
from streamsvc.state.partition import ViewPartition
from streamsvc.store.row import PackedRows

__all__ = ["Batch", "Prepared", "Update", "pack"]

Update: TypeAlias = tuple[BytesColumn, PackedRows, tuple[I64, I64] | None]
"""Keys and rows, and of rows of single events these events' partitions and offsets."""


@dataclass(slots=True, eq=False)
class Prepared:
    """A cut on its way out of the worker."""

    running: RunningView
    partition: ViewPartition
    cut: Cut
    again: tuple[BytesColumn, PackedRows] | None
    """Rows that the store had refused, and takes now."""
    appended_ms: int
    rows: list[tuple[Batch, slice]] = field(default_factory=list)
    """Where its rows are: of each emission, and then those that were refused. Made by `pack`."""
    records: list[bytes] = field(default_factory=list)
    """Those of the commit, made by `encode`; none without one."""

    @property
    def n_rows(self) -> int:
        """How many rows it will have, those of single events among them."""
        again = 0 if self.again is None else len(self.again[1])
        events = sum(len(each.of) for each in self.cut.events)
        return again + events + sum(len(emission) for emission in self.cut.emissions)

    def updates(self, *, each_event: bool) -> Iterator[Update]:
        """What is told of it, after `pack`; where each event counts, of rows only those that say
        what no event's does."""
        if not each_event:
            yield from ((*batch.part(rows), None) for batch, rows in self.rows)
            return
        cut = self.cut
        for events in cut.events:
            found, event = events.of.rows, (events.of.partition, events.of.offset)
            packed = self.running.layout.pack(
                found.values, cut.incarnation, events.applied, found.as_of, found.valid_until
            )
            yield found.keys, packed, event
        # Behind these lies what the store had refused, which was told with its events.
        made = self.rows[: len(cut.emissions)]
        for emission, (batch, part) in zip(cut.emissions, made, strict=True):
            told = np.flatnonzero(emission.aged | cut.rows_untold)
            if len(told):
                keys, rows = batch.part(part)
                yield keys.take(told), rows.take(told), None

    def encode(self, owner: str) -> None:
        """Make the records of the commit. Any thread."""
        if self.cut.commit is not None:
            self.records = encode_commit(owner, self.cut.commit, self.running.spec)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Rows of a view that are written at once, and whose they are."""

    view: str
    keys: BytesColumn
    rows: PackedRows
    parts: list[tuple[Prepared, slice]]

    def part(self, rows: slice) -> tuple[BytesColumn, PackedRows]:
        """A run of them."""
        return self.keys.take(rows), self.rows.part(rows)

    def written(self, refused: Mapping[int, int]) -> None:
        """What the store has taken, or would take at another offset, which is given by place."""
        for each, rows in self.parts:
            of_it = each.partition.refused
            later = {i - rows.start: at for i, at in refused.items() if rows.start <= i < rows.stop}
            if later or len(of_it):
                of_it.written(*self.part(rows), later)


def pack(prepared: Sequence[Prepared]) -> list[Batch]:
    """The rows of cuts, in their order within each view. Any thread."""
    shared: dict[tuple[ViewKey, int], tuple[Emission, list[tuple[Prepared, slice]]]] = {}
    for each in prepared:
        for emitted in each.cut.emissions:
            at = each.running.key, id(emitted.of)
            shared.setdefault(at, (emitted.of, []))[1].append((each, emitted.rows))
    batches = [_packed(emission, parts) for emission, parts in shared.values()]
    for each in prepared:
        if each.again is not None:
            rows = slice(0, len(each.again[1]))
            batches.append(Batch(each.running.view.name, *each.again, [(each, rows)]))
    for batch in batches:
        for each, rows in batch.parts:
            each.rows.append((batch, rows))
    return batches


def _packed(emission: Emission, parts: list[tuple[Prepared, slice]]) -> Batch:
    running, applied = parts[0][0].running, [each.cut.applied for each, _ in parts]
    sizes = [rows.stop - rows.start for _, rows in parts]
    at = applied[0] if len(parts) == 1 else np.repeat(applied, sizes)
    rows = running.layout.pack(
        emission.values, running.incarnation, at, emission.as_of, emission.valid_until
    )
    return Batch(running.view.name, emission.keys, rows, parts)
