"""What a flush writes to the online store: rows, and then the markers that promise them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import structlog

from streamsvc.agents.topology import RunningView
from streamsvc.columns import I64, BytesColumn
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.state.changelog import encode_commit
from streamsvc.state.partition import Cut, ViewPartition
from streamsvc.store.markers import Marker
from streamsvc.store.read_positions import ReadPosition, read_until_ms
from streamsvc.store.row import PackedRows
from streamsvc.store.row_store import RowBatch, RowStore

__all__ = ["Prepared", "Promising", "wall_ms"]

log = structlog.get_logger(__name__)

Update: TypeAlias = tuple[BytesColumn, PackedRows, tuple[I64, I64] | None]
"""Keys and rows, and of rows of single events these events' partitions and offsets."""


@dataclass(slots=True)
class Prepared:
    """A cut on its way out of the worker. What it takes to write it is made from the cut alone, so
    that the thread which owns the state may go on."""

    running: RunningView
    partition: ViewPartition
    cut: Cut
    again: tuple[BytesColumn, PackedRows] | None
    """Rows that the store had refused, and takes now."""
    appended_ms: int
    rows: list[RowBatch] = field(default_factory=list)
    """Made by `pack`."""
    records: list[bytes] = field(default_factory=list)
    """Those of the commit, made by `encode`; none without one."""

    @property
    def n_rows(self) -> int:
        """How many rows it will have, those of single events among them."""
        again = 0 if self.again is None else len(self.again[1])
        events = sum(len(each.of) for each in self.cut.events)
        return again + events + sum(len(emission) for emission in self.cut.emissions)

    def pack(self) -> None:
        """Make the rows. Any thread."""
        cut, name, layout = self.cut, self.running.view.name, self.running.layout
        for each in cut.emissions:
            packed = layout.pack(
                each.values, cut.incarnation, cut.applied, each.as_of, each.valid_until
            )
            self.rows.append((name, each.keys, packed))
        if self.again is not None:
            self.rows.append((name, *self.again))

    def updates(self, *, each_event: bool) -> Iterator[Update]:
        """What is told of it, after `pack`; where each event counts, of rows only those that say
        what no event's does."""
        if not each_event:
            yield from ((keys, rows, None) for _, keys, rows in self.rows)
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
        for emission, (_, keys, rows) in zip(cut.emissions, made, strict=True):
            told = np.flatnonzero(emission.aged | cut.rows_untold)
            if len(told):
                yield keys.take(told), rows.take(told), None

    def encode(self, owner: str) -> None:
        """Make the records of the commit. Any thread."""
        if self.cut.commit is not None:
            self.records = encode_commit(owner, self.cut.commit, self.running.spec)


class Promising:
    """Writes what was cut, and says what it contains; notices rows that the store has lost."""

    def __init__(
        self, rows: RowStore, metrics: FeatureMetrics, partition_counts: Mapping[str, int]
    ) -> None:
        self._rows = rows
        self._metrics = metrics
        self._partition_counts = partition_counts
        self._read_until_ms: dict[tuple[str, int], int] = {}
        self.lost = False
        """The store has lost rows, and nobody has been told to write them again yet."""

    def take_lost(self) -> bool:
        """Whether rows were lost that whoever asks has written again."""
        lost, self.lost = self.lost, False
        return lost

    def write(
        self, prepared: Sequence[Prepared], ours: Mapping[tuple[str, int], ReadPosition]
    ) -> None:
        """Rows first, then the markers that promise them. On any thread, but not at once."""
        with self._metrics.flush.time():
            owners = [p for p in prepared for _ in p.rows]
            batches = [batch for each in prepared for batch in each.rows]
            written = self._rows.write(batches, ours, dict(self._partition_counts))
            if written.intact:
                self._rows.promise(
                    {
                        (p.running.view.name, p.cut.partition): self._marker(p, written.positions)
                        for p in prepared
                        if not p.cut.quiet
                    }
                )
            else:
                # No marker may promise rows that are gone: the next cut writes all of them first.
                self.lost = True
                self._rows.take_back(self._read_until_ms)
                for running in {p.running.key: p.running for p in prepared}.values():
                    self._rows.introduce(running.view.name, running.layout)
                self._metrics.store_refills.inc()
                log.warning("store_lost_rows", action="all rows are written again")
        for each, (view, keys, rows), refusal in zip(owners, batches, written.refused, strict=True):
            each.partition.refused.written(keys, rows, refusal)
            self._metrics.rows_written.labels(view).inc(len(rows) - refusal.rows)
            self._metrics.rows_refused.labels(view).inc(refusal.rows)
        now = wall_ms()
        for each in prepared:
            if each.appended_ms and not each.cut.quiet:
                late = (now - each.appended_ms) / 1_000
                self._metrics.freshness.labels(each.running.view.name).observe(max(0.0, late))

    def _marker(
        self, prepared: Prepared, shared: Mapping[str, Mapping[int, ReadPosition]]
    ) -> Marker:
        """What the rows of this cut contain, given positions as of the cut or later."""
        cut, topic = prepared.cut, prepared.running.view.source.topic
        positions = shared.get(topic, {})
        if prepared.running.shuffle is None:
            own = positions.get(cut.partition)
            read_ms = own.at_ms if own and cut.sources.get(cut.partition, 0) >= own.offset else 0
        else:
            read_ms = read_until_ms(cut.sources, positions, self._partition_counts.get(topic, 0))
        # An instant that was true once stays true, however far the partition falls behind.
        held = (prepared.running.view.name, cut.partition)
        read_ms = max(read_ms, self._read_until_ms.get(held, 0))
        self._read_until_ms[held] = read_ms
        return Marker(cut.incarnation, {topic: cut.sources}, read_ms, cut.clock_ms)


def wall_ms() -> int:
    """The wall clock, in ms. Read here, at the edge, and passed inwards."""
    return time.time_ns() // 1_000_000
