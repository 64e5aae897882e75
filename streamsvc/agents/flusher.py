"""Rows, markers, commits: everything that leaves the state of a feature worker, in that order.

A flush cuts every partition that changed or aged, writes the rows (fenced), then the markers that
promise them. At most every `commit_interval_ms` the same cut also carries the changed tiles, which
are appended to the changelog once the rows are acknowledged, and where a view has a topic of
updates, once these are. So the changelog never claims a state whose rows or updates may be missing,
and the group's offsets never claim more than the changelog.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import ParamSpec, TypeVar

from streamsvc.agents.packing import Prepared, pack
from streamsvc.agents.promising import Promising, wall_ms
from streamsvc.agents.topology import RunningView, ViewKey
from streamsvc.agents.trimmer import Appended, Trimmer
from streamsvc.agents.update_sender import UpdateSender
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings
from streamsvc.state.partition import ViewPartition, cut_together
from streamsvc.store.read_positions import ReadPosition
from streamsvc.store.row_store import RowStore
from streamsvc.transport.producer import BatchProducer, Send

__all__ = ["IDLE_MARKER_MS", "Flush", "Flusher"]

P = ParamSpec("P")
T = TypeVar("T")

IDLE_MARKER_MS = 20
"""How often a quiet worker confirms that it has read everything the broker holds."""


def _called(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
    """What a thread pool's `submit` returns, of a call made here and now."""
    done: Future[T] = Future()
    try:
        done.set_result(call(*args, **kwargs))
    except Exception as error:  # noqa: BLE001 - raised where the result is asked for
        done.set_exception(error)
    return done


@dataclass(frozen=True, slots=True)
class Flush:
    """A flush that is under way."""

    prepared: list[Prepared]
    written: Future[list[Send]]
    """Done when rows and markers are in the store; raises UnavailableError. What is to be published
    of them then."""
    publishes: bool
    """Whether `Flusher.publish` is to be called once it is written."""
    commits: bool
    """Whether `Flusher.commit` is to be called after that."""

    @property
    def over(self) -> bool:
        """Whether nothing is left to be done or said about it."""
        if self.commits or self.publishes or not self.written.done():
            return False
        return self.written.exception() is None


class Flusher:
    """Flushes the partitions it is given; one flush at a time, and one commit."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        rows: RowStore,
        producer: BatchProducer,
        network: Executor,
        metrics: FeatureMetrics,
        read_positions: Callable[[int], dict[tuple[str, int], ReadPosition]],
        partition_counts: Mapping[str, int],
        updates: UpdateSender,
    ) -> None:
        """`network` has one thread, which does what waits for the store long."""
        self._settings = settings
        self._owner = owner
        self._rows = rows
        self._producer = producer
        self._network = network
        self._metrics = metrics
        self._promising = Promising(rows, metrics, partition_counts)
        self._trimmer = Trimmer(settings, owner, metrics)
        self._read_positions = read_positions
        self._updates = updates
        self._writing: Future[list[Send]] | None = None
        self._committing = False
        self._markers_at = 0
        self._flush_at = 0
        self._commit_at = wall_ms() + settings.commit_interval_ms

    def begin(
        self,
        partitions: Iterable[tuple[RunningView, ViewPartition]],
        now_ms: int,
        *,
        taken: bool,
        idle: bool,
        full: bool = False,
    ) -> Flush | None:
        """Cut what is to be written and start writing it; None if nothing is, or one is under way,
        or not yet published.

        On the engine thread, where nothing else touches the state. `taken` says that something was
        read since the last call, so that others may be waiting to hear how far we are; `idle` that
        nothing was read just now, `full` that nothing will be before something is written.
        """
        if self._updates.behind or (self._writing is not None and not self._writing.done()):
            return None
        # Markers of partitions in which nothing happens only have to tell the time now and then.
        # While records come in, it does not get in the way of the rows that they are about to make.
        refresh = now_ms >= self._markers_at + IDLE_MARKER_MS * (1 if idle else 3)
        commit = not self._committing and now_ms >= self._commit_at
        urgent = self._promising.lost or full
        refresh |= self._promising.lost
        if not (taken or refresh or full) or (now_ms < self._flush_at and not urgent):
            return None
        if refresh:
            self._markers_at = now_ms
        if commit:
            self._committing = True
            self._commit_at = now_ms + self._settings.commit_interval_ms
        self._flush_at = now_ms + self._settings.flush_interval_ms
        return self._start(partitions, now_ms, refresh=refresh, commit=commit)

    def begin_last(
        self, partitions: Iterable[tuple[RunningView, ViewPartition]], now_ms: int
    ) -> Flush:
        """Cut everything, to be committed; no other flush or commit may be under way."""
        return self._start(partitions, now_ms, refresh=True, commit=True)

    async def publish(self) -> None:
        """Send the updates of what is written by now; waits while Kafka is slower than we are."""
        await self._updates.send()

    async def commit(
        self,
        flush: Flush,
        before: Callable[[], Awaitable[None]],
        committed: Callable[[], Awaitable[None]],
    ) -> None:
        """Append the state of a flush that is written and published; then tell that it is
        durable."""
        await before()
        await self._updates.flush()
        commits = [each for each in flush.prepared if each.records]
        acks: list[Awaitable[int | None]] = []
        for each in commits:
            records = [(None, value, ()) for value in each.records]
            topic, partition = each.running.changelog, each.cut.partition
            acks.append(await self._producer.send(topic, partition, records))
            view = each.running.view.name
            self._metrics.commits.labels(view).inc()
            self._metrics.commit_bytes.labels(view).inc(sum(map(len, each.records)))
        offsets = await asyncio.gather(*acks)
        await committed()
        appended = [_appended(p, last) for p, last in zip(commits, offsets, strict=True)]
        await self._trimmer.committed(appended)
        self._committing = False
        await self._trimmer.trim(appended)

    def _start(
        self,
        partitions: Iterable[tuple[RunningView, ViewPartition]],
        now_ms: int,
        *,
        refresh: bool,
        commit: bool,
    ) -> Flush:
        positions = self._read_positions(now_ms)
        refill = self._promising.take_lost()
        chosen: dict[ViewKey, list[tuple[RunningView, ViewPartition, bool]]] = {}
        for running, partition in partitions:
            if refill:
                partition.refill()
            partition.tick(now_ms)
            due = commit and partition.uncommitted
            if refresh or due or partition.unflushed:
                chosen.setdefault(running.key, []).append((running, partition, due))
        prepared = [each for parts in chosen.values() for each in _prepared(parts)]
        # From this thread at once: by way of the event loop the rows would leave a turn later. To
        # write a few takes less than to wake the other thread for them.
        if sum(each.n_rows for each in prepared) <= self._rows.few_rows:
            self._writing = _called(self._write, prepared, positions)
        else:
            self._writing = self._network.submit(self._write, prepared, positions)
        publishes = any(each.n_rows and each.running.view.updates for each in prepared)
        if publishes:
            self._updates.offer(self._writing)
        return Flush(prepared, self._writing, publishes, commit)

    def _write(
        self, prepared: list[Prepared], positions: Mapping[tuple[str, int], ReadPosition]
    ) -> list[Send]:
        # What was cut is made into bytes here: the engine goes on with the next events meanwhile.
        self._promising.write(prepared, pack(prepared), positions)
        for each in prepared:
            each.encode(self._owner)
        return self._updates.records(prepared)


def _prepared(parts: Sequence[tuple[RunningView, ViewPartition, bool]]) -> Iterator[Prepared]:
    """Cuts of the partitions of a view."""
    appended = [partition.take_oldest_appended_ms() for _, partition, _ in parts]
    cuts = cut_together([(partition, commit) for _, partition, commit in parts])
    for (running, partition, _), cut, ms in zip(parts, cuts, appended, strict=True):
        again = partition.refused.again(cut.applied, (emission.keys for emission in cut.emissions))
        yield Prepared(running, partition, cut, again, ms)


def _appended(prepared: Prepared, last: int | None) -> Appended:
    running, commit = prepared.running, prepared.cut.commit
    assert commit is not None
    assert last is not None
    return Appended(
        running.view.name,
        running.changelog,
        prepared.cut.partition,
        prepared.partition.trimming,
        commit,
        last,
        len(prepared.records),
    )
