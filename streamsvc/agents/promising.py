"""What a flush writes to the online store: rows, and then the markers that promise them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import structlog

from streamsvc.agents.packing import Batch, Prepared
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.store.markers import Marker
from streamsvc.store.read_positions import ReadPosition, read_until_ms
from streamsvc.store.row_store import RowStore

__all__ = ["Promising", "wall_ms"]

log = structlog.get_logger(__name__)


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
        self,
        prepared: Sequence[Prepared],
        batches: Sequence[Batch],
        ours: Mapping[tuple[str, int], ReadPosition],
    ) -> None:
        """Rows first, then the markers that promise them. On any thread, but not at once."""
        with self._metrics.flush.time():
            rows = [(batch.view, batch.keys, batch.rows) for batch in batches]
            written = self._rows.write(rows, ours, dict(self._partition_counts))
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
        for batch, refusal in zip(batches, written.refused, strict=True):
            batch.written(refusal.later)
            self._metrics.rows_written.labels(batch.view).inc(len(batch.rows) - refusal.rows)
            self._metrics.rows_refused.labels(batch.view).inc(refusal.rows)
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
