"""Rows, markers, commits: everything that leaves the state of a feature worker, in that order.

A flush cuts every partition that changed or aged, writes the rows (fenced), then the markers that
promise them. At most every `commit_interval_ms` the same cut also carries the changed tiles, which
are appended to the changelog once the rows are acknowledged. So the changelog never claims a state
whose rows may be missing in the store, and the group's offsets never claim more than the changelog.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass

import redis

from streamsvc.agents.topology import RunningView
from streamsvc.columns import BytesColumn
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings
from streamsvc.state.changelog import encode_end, encode_tiles
from streamsvc.state.partition import Cut, ViewPartition
from streamsvc.store.markers import Marker, write_markers
from streamsvc.store.read_positions import ReadPosition, read_until_ms, share_read_positions
from streamsvc.store.row import PackedRows
from streamsvc.store.writer import FencedWriter
from streamsvc.transport.producer import BatchProducer

__all__ = ["Flusher", "wall_ms"]

IDLE_MARKER_MS = 20
"""How often a quiet worker confirms that it has read everything the broker holds."""


def wall_ms() -> int:
    """The wall clock, in ms. Read here, at the edge, and passed inwards."""
    return time.time_ns() // 1_000_000


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A cut with its rows packed and its commit encoded: ready for the network."""

    running: RunningView
    cut: Cut
    rows: tuple[tuple[BytesColumn, PackedRows], ...]
    commit: tuple[bytes, ...]
    appended_ms: int


class Flusher:
    """Flushes the partitions it is given; one flush at a time."""

    def __init__(
        self,
        settings: Settings,
        project: str,
        owner: str,
        store: redis.Redis,
        producer: BatchProducer,
        engine: Executor,
        network: Executor,
        metrics: FeatureMetrics,
        read_positions: Callable[[int], dict[tuple[str, int], ReadPosition]],
        partition_counts: Mapping[str, int],
    ) -> None:
        self._settings = settings
        self._project = project
        self._owner = owner
        self._store = store
        self._writer = FencedWriter(store, project)
        self._producer = producer
        self._engine = engine
        self._network = network
        self._metrics = metrics
        self._read_positions = read_positions
        self._partition_counts = partition_counts
        self._read_until_ms: dict[tuple[str, int], int] = {}
        self._wake = asyncio.Event()
        self._markers_at = 0

    def wake(self) -> None:
        """Something was applied: flush as soon as the last flush is done."""
        self._wake.set()

    async def run(
        self,
        partitions: Callable[[], list[tuple[RunningView, ViewPartition]]],
        before_commit: Callable[[], Awaitable[None]],
        committed: Callable[[], Awaitable[None]],
    ) -> None:
        """Flush until cancelled, with the two callbacks around each round of commits.

        Rows go on being written while a commit is on its way to the changelog; the next commit
        waits for it.
        """
        interval_ms = self._settings.commit_interval_ms
        pause_s = self._settings.flush_interval_ms / 1_000
        commit_at = wall_ms() + interval_ms
        commit: asyncio.Task[None] | None = None
        try:
            while True:
                # When it is quiet, rows still age, and markers confirm that nothing is unread.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), IDLE_MARKER_MS / 1_000)
                self._wake.clear()
                if commit is not None and commit.done():
                    commit.result()
                    commit = None
                due = commit is None and wall_ms() >= commit_at
                prepared = await self._flush(partitions(), commit=due)
                if due:
                    commit_at = wall_ms() + interval_ms
                    commit = asyncio.create_task(self._commit(prepared, before_commit, committed))
                if pause_s:
                    await asyncio.sleep(pause_s)
        finally:
            if commit is not None:
                commit.cancel()

    async def flush_and_commit(
        self,
        partitions: list[tuple[RunningView, ViewPartition]],
        before_commit: Callable[[], Awaitable[None]],
        committed: Callable[[], Awaitable[None]],
    ) -> None:
        """Make everything durable. Returns once it is; `run` must have been cancelled before."""
        prepared = await self._flush(partitions, commit=True)
        await self._commit(prepared, before_commit, committed)

    async def _flush(
        self, partitions: list[tuple[RunningView, ViewPartition]], *, commit: bool
    ) -> list[_Prepared]:
        loop = asyncio.get_running_loop()
        with self._metrics.flush.time():
            prepared, positions = await loop.run_in_executor(
                self._engine, self._prepare, partitions, commit, wall_ms()
            )
            await loop.run_in_executor(self._network, self._write, prepared, positions)
        return prepared

    async def _commit(
        self,
        prepared: list[_Prepared],
        before: Callable[[], Awaitable[None]],
        committed: Callable[[], Awaitable[None]],
    ) -> None:
        """Append the state of a flush whose rows are written; then tell that it is durable."""
        await before()
        acks: list[Awaitable[int | None]] = []
        for each in prepared:
            if each.commit:
                records = [(None, value, ()) for value in each.commit]
                topic, partition = each.running.changelog, each.cut.partition
                acks.append(await self._producer.send(topic, partition, records))
                view = each.running.view.name
                self._metrics.commits.labels(view).inc()
                self._metrics.commit_bytes.labels(view).inc(sum(map(len, each.commit)))
        await asyncio.gather(*acks)
        await committed()

    def _prepare(
        self,
        partitions: list[tuple[RunningView, ViewPartition]],
        commit: bool,
        now_ms: int,
    ) -> tuple[list[_Prepared], dict[tuple[str, int], ReadPosition]]:
        """On the engine thread, where nothing else touches the state."""
        positions = self._read_positions(now_ms)
        # Markers of partitions in which nothing happens only have to tell the time now and then.
        refresh = now_ms >= self._markers_at + IDLE_MARKER_MS
        if refresh:
            self._markers_at = now_ms
        prepared = []
        for running, partition in partitions:
            partition.tick(now_ms)
            due = commit and partition.uncommitted
            if not (refresh or due or partition.unflushed):
                continue
            appended_ms = partition.take_oldest_appended_ms()
            cut = partition.cut(commit=due)
            rows = tuple(
                (
                    emission.keys,
                    running.layout.pack(
                        emission.values,
                        cut.incarnation,
                        cut.applied,
                        emission.as_of,
                        emission.valid_until,
                    ),
                )
                for emission in cut.emissions
            )
            encoded: tuple[bytes, ...] = ()
            if cut.commit is not None:
                tiles = encode_tiles(self._owner, cut.commit.tiles, running.spec)
                encoded = (*tiles, encode_end(self._owner, cut.commit.end))
            prepared.append(_Prepared(running, cut, rows, encoded, appended_ms))
        return prepared, positions

    def _write(
        self, prepared: list[_Prepared], ours: Mapping[tuple[str, int], ReadPosition]
    ) -> None:
        """On the network thread: rows first, then the markers that promise them."""
        shared = share_read_positions(self._store, self._project, ours, self._partition_counts)
        for each in prepared:
            view = each.running.view.name
            for keys, rows in each.rows:
                refused = self._writer.write(view, keys, rows)
                self._metrics.rows_written.labels(view).inc(len(rows) - refused)
                self._metrics.rows_refused.labels(view).inc(refused)
        markers = {
            (p.running.view.name, p.cut.partition): self._marker(p, shared) for p in prepared
        }
        write_markers(self._store, self._project, markers)
        now = wall_ms()
        for each in prepared:
            if each.appended_ms:
                late = (now - each.appended_ms) / 1_000
                self._metrics.freshness.labels(each.running.view.name).observe(max(0.0, late))

    def _marker(
        self, prepared: _Prepared, shared: Mapping[str, Mapping[int, ReadPosition]]
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
