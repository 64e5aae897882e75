"""What a feature worker holds: the state of the partitions that are assigned to it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import structlog

from streamsvc.agents.topic_watch import changed
from streamsvc.agents.topology import RunningView, Topology
from streamsvc.errors import IntegrityError
from streamsvc.events.decode import Decoder
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.features.engine import EngineStats
from streamsvc.settings import Settings
from streamsvc.state.changelog import End
from streamsvc.state.partition import ViewPartition
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.state.restore import opened_since, restore_partitions, restore_progress
from streamsvc.state.source import SourceClock, SourcePartition
from streamsvc.store.client import Client
from streamsvc.store.markers import read_markers
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.schema_registry import open_registry

__all__ = ["Holdings", "Partition"]

log = structlog.get_logger(__name__)

Partition = tuple[str, int]
OnEngine = Callable[[Callable[[], None]], Awaitable[None]]


class Holdings:
    """Sources by (topic, partition), view states by (view, partition)."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        producer: BatchProducer,
        owner: str,
        store: Client,
    ) -> None:
        self.sources: dict[Partition, SourcePartition] = {}
        self.views: dict[Partition, tuple[RunningView, ViewPartition]] = {}
        self.offered: dict[Partition, int] = {}
        """(view, source partition) -> next source offset to be shuffled."""
        self.partition_counts: dict[str, int] = {}
        """Event topic -> partitions, as of the last assignment."""
        self._settings = settings
        self._topology = topology
        self._producer = producer
        self._owner = owner
        self._store = store
        self._admin = Admin(settings)
        registry = open_registry(settings, topology.sources.values())
        self._decoders = {
            topic: Decoder(source, max_record_bytes=settings.max_record_bytes, registry=registry)
            for topic, source in topology.sources.items()
        }

    def release(self, assignment: frozenset[Partition]) -> list[Partition]:
        """Forget what is no longer assigned; returns those partitions."""
        held = [*self.sources, *self._shuffle_partitions()]
        gone = [p for p in held if p not in assignment]
        for topic, partition in gone:
            if topic in self._topology.sources:
                del self.sources[(topic, partition)]
                for each in self._topology.direct(topic):
                    del self.views[(each.view.name, partition)]
                for each in self._topology.shuffled(topic):
                    self.offered.pop((each.view.name, partition), None)
            else:
                for each in self._topology.readers_of(topic):
                    del self.views[(each.view.name, partition)]
        return gone

    def _shuffle_partitions(self) -> set[Partition]:
        return {(v.shuffle, p) for (_, p), (v, _) in self.views.items() if v.shuffle is not None}

    async def opened_by_others(self) -> frozenset[Partition]:
        """Of what is held, the partitions that another worker took over meanwhile.

        A worker that was away from its group for a while may be given back what it held before. Its
        state is behind then, and its commits count for nobody.
        """
        found: set[Partition] = set()
        for each in self._topology.views:
            log_topic = each.shuffle or each.view.source.topic
            held = [state for running, state in self.views.values() if running is each]
            known = {state.partition: state.trimming.known for state in held}
            logs = await opened_since(self._settings, each.changelog, self._owner, known)
            found |= {(log_topic, p) for p, (_, opened) in logs.items() if opened}
        return frozenset(found)

    async def take(self, assignment: frozenset[Partition], on_engine: OnEngine) -> int:
        """Restore what is newly assigned; returns how many partitions that was.

        Raises IntegrityError when the log no longer holds what a view still has to read.
        """
        new = sorted(assignment - {*self.sources, *self._shuffle_partitions()})
        if not new:
            return 0
        sources = [(t, p) for t, p in new if t in self._topology.sources]
        await self._look_at_topics()
        restored: dict[Partition, tuple[RunningView, ViewPartition]] = {}
        for each in self._topology.views:
            log_topic = each.shuffle or each.view.source.topic
            partitions = [p for t, p in new if t == log_topic]
            if partitions:
                restored.update(await self._restore(each, log_topic, partitions, on_engine))
        progress: dict[ProgressKey, Progress] = {}
        if any(self._topology.shuffled(t) for t, _ in sources):
            progress = await restore_progress(self._settings, self._topology.topics.progress)
        read = {topic for topic, _ in sources}
        begins = {t: await asyncio.to_thread(self._admin.start_offsets, t) for t in read}
        ends = {t: await asyncio.to_thread(self._admin.end_offsets, t) for t in read}
        counts = self.partition_counts

        def install() -> None:
            self.views.update(restored)
            for topic, partition in sources:
                kept = begins[topic][partition], ends[topic][partition]
                self._install_source(topic, partition, counts[topic], kept, progress)

        await on_engine(install)
        return len(new)

    async def _look_at_topics(self) -> None:
        """Count all event topics, not only those we read: partitions may have been added anywhere.

        Raises IntegrityError if a topic is another one than the views were made for.
        """
        before = self._topology.event_topics
        now = await asyncio.to_thread(self._admin.describe, list(before))
        for topic, state in before.items():
            why = changed(topic, state, now.get(topic), self._topology.sources[topic])
            if why is not None:
                raise IntegrityError(why)
            self.partition_counts[topic] = now[topic].partitions

    async def _restore(
        self, each: RunningView, log_topic: str, partitions: list[int], on_engine: OnEngine
    ) -> dict[Partition, tuple[RunningView, ViewPartition]]:
        begins = await asyncio.to_thread(self._admin.start_offsets, each.changelog)
        restored = await restore_partitions(
            self._settings,
            self._producer,
            each.changelog,
            self._owner,
            each.incarnation,
            {p: begins[p] for p in partitions},
            lambda p: ViewPartition(each.view, each.spec, p, each.incarnation),
        )
        ends = {partition: found.end for partition, found in restored.items()}
        log_begins = await asyncio.to_thread(self._admin.start_offsets, log_topic)
        log_ends = await asyncio.to_thread(self._admin.end_offsets, log_topic)
        for partition, end in ends.items():
            if each.shuffle is not None and end is not None:
                kept = log_begins[partition], log_ends[partition]
                _assert_kept(log_topic, partition, kept, {each.view.name: end.applied})
        lost = await asyncio.to_thread(self._lost, each, ends)

        def resume() -> None:
            for partition, found in restored.items():
                state = found.state
                state.trimming = found.trimming
                state.resume(found.end, log_ends[partition], log_begins[partition])
                if partition in lost:
                    state.refill()

        await on_engine(resume)
        return {(each.view.name, p): (each, found.state) for p, found in restored.items()}

    def _lost(self, each: RunningView, ends: Mapping[int, End | None]) -> list[int]:
        """Partitions whose rows were written once, but are not all in the store any more.

        Rows and their marker are written before the commit that covers them, so a marker that says
        less than the commit, or is not there, has been lost.
        """
        name, topic = each.view.name, each.view.source.topic
        partitions = [p for p, end in ends.items() if end is not None]
        markers = read_markers(self._store, self._topology.project, name, partitions)
        lost = []
        for partition, marker in zip(partitions, markers, strict=True):
            end = ends[partition]
            assert end is not None
            held = {} if marker is None else marker.applied.get(topic, {})
            older = marker is None or marker.incarnation < each.incarnation
            if older or any(held.get(p, 0) < offset for p, offset in end.vector.items()):
                lost.append(partition)
        if lost:
            log.warning("store_lost_rows", view=name, partitions=lost, action="written again")
        return lost

    def _install_source(
        self,
        topic: str,
        partition: int,
        partitions: int,
        kept: tuple[int, int],
        progress: Mapping[ProgressKey, Progress],
    ) -> None:
        """Start a source where the view that is furthest behind has to go on."""
        fresh = Progress(kept[0], NO_WATERMARK, NO_WATERMARK, False)
        positions: list[tuple[str, Progress]] = []
        for each in self._topology.direct(topic):
            state = self.views[(each.view.name, partition)][1]
            positions.append((each.view.name, state.position() or fresh))
        for each in self._topology.shuffled(topic):
            key = ProgressKey(each.view.name, each.incarnation, partition)
            found = progress.get(key, fresh)
            positions.append((each.view.name, found))
            self.offered[(each.view.name, partition)] = found.offset
        _assert_kept(topic, partition, kept, {view: at.offset for view, at in positions})
        least = min((at for _, at in positions), key=lambda at: at.offset)
        source = SourcePartition(
            self._topology.sources[topic], self._decoders[topic], partition, partitions
        )
        source.resume(
            least.offset, least.watermark, SourceClock(least.clock_ms, least.clock_driven)
        )
        self.sources[(topic, partition)] = source

    def resume_offsets(self, assignment: frozenset[Partition]) -> dict[Partition, int]:
        """Where each assigned partition has to be read from."""
        offsets: dict[Partition, int] = {}
        for topic, partition in assignment:
            if topic in self._topology.sources:
                offsets[(topic, partition)] = self.sources[(topic, partition)].next_offset
            else:
                readers = self._topology.readers_of(topic)
                states = [self.views[(each.view.name, partition)][1] for each in readers]
                offsets[(topic, partition)] = min(state.applied for state in states)
        return offsets

    def comes_back(self, topic: str) -> bool:
        """Whether all that a chunk of this topic does comes back to us through the shuffle, so that
        nobody has to be told of it before."""
        if topic not in self._topology.sources or self._topology.direct(topic):
            return False
        return all(
            (each.view.name, group) in self.views
            for each in self._topology.shuffled(topic)
            for group in range(self._settings.key_groups)
        )

    def stats(self) -> list[tuple[str, EngineStats]]:
        """Size of every state, with the name of its view."""
        return [(each.view.name, held.state.stats()) for each, held in self.views.values()]

    def durable(self, sent: Mapping[ProgressKey, Progress]) -> dict[Partition, int]:
        """Offset below which every effect of a partition's records is durable."""
        found: dict[Partition, int] = {}
        for topic, partition in self.sources:
            ends = [
                self.views[(each.view.name, partition)][1].committed
                for each in self._topology.direct(topic)
            ]
            for each in self._topology.shuffled(topic):
                progress = sent.get(ProgressKey(each.view.name, each.incarnation, partition))
                ends.append(progress.offset if progress else -1)
            found[(topic, partition)] = min(ends)
        for running, state in self.views.values():
            if running.shuffle is not None:
                held = (running.shuffle, state.partition)
                found[held] = min(found.get(held, state.committed), state.committed)
        return found


def _assert_kept(
    topic: str, partition: int, kept: tuple[int, int], positions: Mapping[str, int]
) -> None:
    """Raise IntegrityError unless a log still holds what views (name -> next offset) have to read.

    `kept` are the offset that the log begins at, and that at which it ends.
    """
    begin, end = kept
    wrong = sorted(view for view, at in positions.items() if not begin <= at <= end)
    if not wrong:
        return
    at, views = positions[wrong[0]], ", ".join(wrong)
    if at < begin:
        what = (
            f"{topic}/{partition} begins at offset {begin}, but view {wrong[0]} goes on at {at}: "
            "retention or DeleteRecords have deleted the records in between unread. Keep them for "
            "longer than workers may be away."
        )
    else:
        what = (
            f"{topic}/{partition} ends at offset {end}, before {at} where view {wrong[0]} goes on: "
            "the log has lost its end, and other records will take its offsets."
        )
    raise IntegrityError(
        f"{what} What was lost cannot be counted; to begin {views} anew with what the topic still "
        f"holds: `streamsvc store rebuild --from-topic {' --from-topic '.join(wrong)}`, then start "
        "the workers again."
    )
