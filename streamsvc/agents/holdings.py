"""What a feature worker holds: the state of the partitions that are assigned to it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import structlog

from streamsvc.agents.kept import Kept, refuse, why_not_built
from streamsvc.agents.topic_watch import changed
from streamsvc.agents.topology import RunningView, Topology, ViewKey
from streamsvc.definitions.plan import Source
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
from streamsvc.store.markers import Marker
from streamsvc.store.row_store import RowStore
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.schema_registry import open_registry

__all__ = ["Holdings", "Lane", "Partition", "same_reading"]

log = structlog.get_logger(__name__)

Partition = tuple[str, int]
OnEngine = Callable[[Callable[[], None]], Awaitable[None]]


@dataclass(slots=True, eq=False)
class Lane:
    """Views that read an event partition together, at one position, by one definition of it."""

    source: SourcePartition
    views: list[RunningView]
    riding: bool
    """Whether it is handed what the group's consumer delivers. One that does not is behind."""
    until: int
    """Where the log ended when the lane began: it rides from there on at the earliest."""

    @property
    def direct(self) -> list[RunningView]:
        """Views whose state is kept by this partition itself."""
        return [view for view in self.views if view.shuffle is None]

    @property
    def shuffled(self) -> list[RunningView]:
        """Views whose rows go to the shuffle."""
        return [view for view in self.views if view.shuffle is not None]


class Holdings:
    """Lanes by (topic, partition) of event topics, view states by (view, partition)."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        producer: BatchProducer,
        owner: str,
        rows: RowStore,
        not_built: Callable[[ViewKey, str], None],
    ) -> None:
        """`not_built` is told of every new incarnation that is given up, and why."""
        self.lanes: dict[Partition, list[Lane]] = {}
        """Of each event partition; the first one rides, and is where the consumer is."""
        self.views: dict[tuple[ViewKey, int], tuple[RunningView, ViewPartition]] = {}
        self.offered: dict[tuple[ViewKey, int], int] = {}
        """(view, source partition) -> next source offset to be shuffled."""
        self.read: dict[Partition, int] = {}
        """Shuffle partition -> next offset that the consumer delivers."""
        self.partition_counts: dict[str, int] = {}
        """Event topic -> partitions, as of the last assignment."""
        self.version = 0
        """Counts changes of what has to be read beside the consumer."""
        self._late: set[tuple[ViewKey, int]] = set()
        """States behind a shuffle that are behind what the consumer delivers."""
        self._quiet: set[tuple[ViewKey, int]] = set()
        self._settings = settings
        self.topology = topology
        self._producer = producer
        self._owner = owner
        self._rows = rows
        self._not_built = not_built
        self._admin = Admin(settings)
        self._decoders: dict[str, tuple[Source, Decoder]] = {}

    @property
    def sources(self) -> dict[Partition, SourcePartition]:
        """Where the consumer is in each event partition."""
        return {partition: lanes[0].source for partition, lanes in self.lanes.items()}

    @property
    def held(self) -> set[Partition]:
        """All partitions that are assigned to us."""
        return {*self.lanes, *self.read}

    # --- rebalance -------------------------------------------------------------------------

    def release(self, assignment: frozenset[Partition]) -> list[Partition]:
        """Forget what is no longer assigned; returns those partitions."""
        gone = [p for p in self.held if p not in assignment]
        for topic, partition in gone:
            for each in self.topology.views:
                held = each.key, partition
                if each.log == topic:
                    self._forget(held)
                if each.view.source.topic == topic:
                    self.offered.pop(held, None)
            self.lanes.pop((topic, partition), None)
            self.read.pop((topic, partition), None)
        self.version += bool(gone)
        return gone

    async def opened_by_others(self) -> frozenset[Partition]:
        """Of what is held, the partitions that another worker took over meanwhile.

        A worker that was away from its group for a while may be given back what it held before. Its
        state is behind then, and its commits count for nobody.
        """
        found: set[Partition] = set()
        for each in self.topology.views:
            held = [state for running, state in self.views.values() if running.key == each.key]
            known = {state.partition: state.trimming.known for state in held}
            logs = await opened_since(self._settings, each.changelog, self._owner, known)
            found |= {(each.log, p) for p, (_, opened) in logs.items() if opened}
        return frozenset(found)

    async def take(self, assignment: frozenset[Partition], on_engine: OnEngine) -> int:
        """Restore what is newly assigned; returns how many partitions that was.

        Raises IntegrityError when the log no longer holds what a view still has to read.
        """
        # For a moment, the group may still assign a topic that nobody here reads any more.
        wanted = set(self.topology.read)
        new = sorted(at for at in assignment - self.held if at[0] in wanted)
        if new:
            await self._look_at_topics()
            await self._restore_all(self.topology, self.topology.views, new, on_engine, begin=True)
        return len(new)

    async def change(self, topology: Topology, on_engine: OnEngine) -> None:
        """Run another topology on what is held: what both have goes on where it is.

        Raises IntegrityError, and changes nothing, when the log no longer holds what a view that is
        new here still has to read.
        """
        before = {each.key for each in self.topology.views}
        added = [each for each in topology.views if each.key not in before]
        await self._look_at_topics()
        await self._restore_all(topology, added, sorted(self.held), on_engine, begin=False)

    def _replace_topology(self, topology: Topology) -> None:
        """Let go what another topology does not have."""
        self.topology = topology
        wanted = {each.key for each in topology.views}
        for held in [held for held in self.views if held[0] not in wanted]:
            self._forget(held)
        for at, lanes in self.lanes.items():
            for lane in lanes:
                lane.views = [v for v in lane.views if v.key in wanted]
            self.lanes[at] = _pruned(lanes)
        for at in self.held:
            if at[0] not in topology.read:
                self.lanes.pop(at, None)
                self.read.pop(at, None)
        for held in [held for held in self.offered if held[0] not in wanted]:
            del self.offered[held]
        # One incarnation that waits is enough: the newest.
        newest = {each.view.name: each.incarnation for each in topology.views if each.quiet}
        for held in list(self._quiet):
            (name, number), _ = held
            if number < newest.get(name, 0):
                self._stop(held)

    def _forget(self, held: tuple[ViewKey, int]) -> None:
        self.views.pop(held, None)
        self._late.discard(held)
        self._quiet.discard(held)

    async def _restore_all(
        self,
        topology: Topology,
        views: Sequence[RunningView],
        partitions: Sequence[Partition],
        on_engine: OnEngine,
        *,
        begin: bool,
    ) -> None:
        """Restore these views of a topology on these partitions, and go over to it.

        The partitions `begin` here, or have been read for some time: then whatever is behind
        catches up beside the others.
        """
        restored: dict[tuple[ViewKey, int], tuple[RunningView, ViewPartition]] = {}
        for each in views:
            numbers = [p for topic, p in partitions if topic == each.log]
            if numbers:
                restored.update(await self._restore(each, numbers, on_engine))
        by_topic = {each.view.source.topic for each in views} | {each.log for each in views}
        topics = {topic for topic, _ in partitions} & by_topic
        begins = {t: await asyncio.to_thread(self._admin.start_offsets, t) for t in topics}
        ends = {t: await asyncio.to_thread(self._admin.end_offsets, t) for t in topics}
        progress: dict[ProgressKey, Progress] = {}
        if any(v.shuffle is not None and v.view.source.topic in topics for v in views):
            progress = await restore_progress(self._settings, self.topology.topics.progress)
        kept = [Kept(t, p, begins[t][p], ends[t][p]) for t, p in partitions if t in topics]
        lost = await self._lost_builds(views, kept, restored, progress)
        views = [each for each in views if each.shuffle is None or each.key not in lost]
        restored = {
            held: found
            for held, found in restored.items()
            if held[0] not in lost or not found[1].quiet
        }

        def install() -> None:
            # All in one step: a state that is there and is not fed would have a hole.
            if topology is not self.topology:
                self._replace_topology(topology)
            self.views.update(restored)
            self._quiet |= {held for held, (_, state) in restored.items() if state.quiet}
            for each in kept:
                if each.topic in topology.sources:
                    self._install_source(each, views, progress, begin=begin)
                else:
                    self._install_group(each, views, begin=begin)
            self.version += 1

        await on_engine(install)

    async def _lost_builds(
        self,
        views: Sequence[RunningView],
        kept: Sequence[Kept],
        restored: Mapping[tuple[ViewKey, int], tuple[RunningView, ViewPartition]],
        progress: Mapping[ProgressKey, Progress],
    ) -> set[ViewKey]:
        """New incarnations that cannot be built on, because what they still have to read is gone.

        Raises IntegrityError if that is so of a view that is served.
        """
        lost: dict[ViewKey, str] = {}
        for log_ in kept:
            positions: list[tuple[RunningView, int]] = []
            for each in views:
                held = restored.get((each.key, log_.partition))
                if each.shuffle is not None and each.view.source.topic == log_.topic:
                    sent = progress.get(ProgressKey(*each.key, log_.partition))
                    positions += [(each, sent.offset)] if sent else []
                elif each.log == log_.topic and held is not None and held[1].committed >= 0:
                    positions.append((each, held[1].applied))
            lost |= await self._lost_of(log_, positions, restored)
        for key, why in lost.items():
            self._not_built(key, why)
        return set(lost)

    async def _lost_of(
        self,
        kept: Kept,
        positions: Sequence[tuple[RunningView, int]],
        states: Mapping[tuple[ViewKey, int], tuple[RunningView, ViewPartition]],
    ) -> dict[ViewKey, str]:
        lost: dict[ViewKey, str] = {}
        for each, at in positions:
            if kept.deleted(at) and await self._unserved(each, kept.partition, states):
                lost[each.key] = why_not_built(kept, each.view.name, at)
        refuse(kept, {each.view.name: at for each, at in positions if each.key not in lost})
        return lost

    async def _unserved(
        self,
        each: RunningView,
        partition: int,
        states: Mapping[tuple[ViewKey, int], tuple[RunningView, ViewPartition]],
    ) -> bool:
        """Whether nothing of an incarnation is served that this partition has a part in."""
        if not each.quiet or each.shuffle is None:
            return each.quiet and states[(each.key, partition)][1].quiet
        groups = range(self._settings.key_groups)
        markers = await asyncio.to_thread(self._rows.promised, each.view.name, groups)
        return all(m is None or m.incarnation < each.incarnation for m in markers)

    async def deleted(self, topic: str, on_engine: OnEngine) -> None:
        """Give up the new incarnations that are behind on a topic at records that were deleted.

        Raises IntegrityError if a view that is served was to read such records, too.
        """
        begins = await asyncio.to_thread(self._admin.start_offsets, topic)
        ends = await asyncio.to_thread(self._admin.end_offsets, topic)
        behind: list[tuple[int, list[tuple[RunningView, int]]]] = []
        await on_engine(lambda: behind.extend(self._behind(topic)))
        lost: dict[ViewKey, str] = {}
        for partition, positions in behind:
            kept = Kept(topic, partition, begins[partition], ends[partition])
            lost |= await self._lost_of(kept, positions, self.views)
        await on_engine(lambda: self._give_up(lost.keys()))
        for key, why in lost.items():
            self._not_built(key, why)

    def _behind(self, topic: str) -> list[tuple[int, list[tuple[RunningView, int]]]]:
        """By partition, what is behind the consumer, and where."""
        found: defaultdict[int, list[tuple[RunningView, int]]] = defaultdict(list)
        for (log_, partition), lanes in self.lanes.items():
            for lane in lanes:
                if log_ == topic and not lane.riding:
                    found[partition] += [(each, lane.source.next_offset) for each in lane.views]
        for held in self._late:
            running, state = self.views[held]
            if running.log == topic:
                found[held[1]].append((running, state.applied))
        return list(found.items())

    def _give_up(self, keys: Collection[ViewKey]) -> None:
        """Let go of new incarnations, except where they are served already."""
        for held in [held for held in self._quiet if held[0] in keys]:
            self._stop(held)
        for at, lanes in self.lanes.items():
            for lane in lanes:
                lane.views = [v for v in lane.views if v.shuffle is None or v.key not in keys]
            self.lanes[at] = _pruned(lanes)
        self.version += 1

    async def _look_at_topics(self) -> None:
        """Count all event topics, not only those we read: partitions may have been added anywhere.

        Raises IntegrityError if a topic is another one than the views were made for.
        """
        before = self.topology.event_topics
        now = await asyncio.to_thread(self._admin.describe, list(before))
        for topic, state in before.items():
            why = changed(topic, state, now.get(topic), self.topology.sources[topic])
            if why is not None:
                raise IntegrityError(why)
            self.partition_counts[topic] = now[topic].partitions

    async def _restore(
        self, each: RunningView, partitions: list[int], on_engine: OnEngine
    ) -> dict[tuple[ViewKey, int], tuple[RunningView, ViewPartition]]:
        name, topic = each.view.name, each.view.source.topic
        found = await asyncio.to_thread(self._rows.promised, name, partitions)
        markers = dict(zip(partitions, found, strict=True))
        # What a later incarnation serves already has nothing more to do.
        partitions = [
            p for p, m in markers.items() if m is None or m.incarnation <= each.incarnation
        ]
        if not partitions:
            return {}
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
        await asyncio.to_thread(self._rows.introduce, name, each.layout)
        log_begins = await asyncio.to_thread(self._admin.start_offsets, each.log)
        log_ends = await asyncio.to_thread(self._admin.end_offsets, each.log)
        until = await self._records(topic) if each.quiet else {}
        waits, lost = set(), self._lost(each, ends, markers)
        for partition in partitions:
            marker = markers[partition]
            if each.quiet and (marker is None or marker.incarnation < each.incarnation):
                waits.add(partition)

        def resume() -> None:
            for partition, found in restored.items():
                state = found.state
                state.trimming = found.trimming
                own = each.starts if each.shuffle is None else each.begins
                begin = max(log_begins[partition], own.get(partition, 0))
                state.resume(found.end, log_ends[partition], begin, each.starts)
                if partition in waits:
                    state.wait({p: at for p, at in until.items() if each.shuffle or p == partition})
                elif partition in lost:
                    state.refill()

        await on_engine(resume)
        return {(each.key, p): (each, found.state) for p, found in restored.items()}

    async def _records(self, topic: str) -> dict[int, int]:
        """Where the partitions of a topic end that hold anything."""
        begins = await asyncio.to_thread(self._admin.start_offsets, topic)
        ends = await asyncio.to_thread(self._admin.end_offsets, topic)
        return {p: end for p, end in ends.items() if end > begins[p]}

    def _lost(
        self,
        each: RunningView,
        ends: Mapping[int, End | None],
        markers: Mapping[int, Marker | None],
    ) -> list[int]:
        """Partitions whose rows were written once, but are not all in the store any more.

        Rows and their marker are written before the commit that covers them, so a marker that says
        less than the commit, or is not there, has been lost; or its store does not remember it.
        """
        name, topic = each.view.name, each.view.source.topic
        lost = []
        for partition, end in ends.items():
            marker = markers[partition]
            if end is None or (each.quiet and marker is None):
                continue
            held = {} if marker is None else marker.applied.get(topic, {})
            older = marker is None or marker.incarnation < each.incarnation
            if older or any(held.get(p, 0) < offset for p, offset in end.vector.items()):
                lost.append(partition)
        if lost and not each.quiet and self._rows.remembers:
            log.warning("store_lost_rows", view=name, partitions=lost, action="written again")
        return lost

    # --- lanes -----------------------------------------------------------------------------

    def _install_group(self, kept: Kept, views: Sequence[RunningView], *, begin: bool) -> None:
        """Start a key group where the view that is furthest behind has to go on, unless it waits
        anyway: that one catches up by itself."""
        topic, partition = kept.topic, kept.partition
        readers = [v for v in views if v.shuffle == topic and (v.key, partition) in self.views]
        applied = {v.key: self.views[(v.key, partition)][1].applied for v in readers}
        if begin:
            leaders = [applied[v.key] for v in readers if not v.quiet]
            self.read[(topic, partition)] = min(leaders, default=kept.end)
        at = self.read[(topic, partition)]
        self._late |= {(key, partition) for key, offset in applied.items() if offset < at}

    def _install_source(
        self,
        kept: Kept,
        views: Sequence[RunningView],
        progress: Mapping[ProgressKey, Progress],
        *,
        begin: bool,
    ) -> None:
        """Start a source where the view that is furthest behind has to go on, unless it waits
        anyway: that one catches up in a lane of its own."""
        topic, partition = kept.topic, kept.partition
        positions: list[tuple[RunningView, Progress]] = []
        for each in views:
            if each.view.source.topic != topic:
                continue
            held = each.key, partition
            first = max(kept.begin, each.starts.get(partition, 0))
            fresh = Progress(first, NO_WATERMARK, NO_WATERMARK, False)
            if each.shuffle is not None:
                found = progress.get(ProgressKey(*each.key, partition), fresh)
                self.offered[held] = found.offset
            elif held in self.views:
                found = self.views[held][1].position() or fresh
            else:
                continue  # a later incarnation serves here already
            positions.append((each, found))
        lanes = self.lanes.setdefault((topic, partition), [])
        leaders = [at.offset for v, at in positions if not v.quiet]
        lead = min(leaders, default=kept.end) if begin else lanes[0].source.next_offset
        for riding in (True, False):
            chosen = [(v, at) for v, at in positions if (at.offset >= lead) == riding]
            for described in _distinct([v.view.source for v, _ in chosen]):
                part = [(v, at) for v, at in chosen if same_reading(v.view.source, described)]
                least = min((at for _, at in part), key=lambda at: at.offset)
                lanes.append(
                    Lane(
                        self._source(described, topic, partition, least),
                        [v for v, _ in part],
                        riding,
                        kept.end if kept.end > kept.begin else 0,
                    )
                )
        lanes.sort(key=lambda lane: (not lane.riding, lane.source.next_offset))
        if not (lanes and lanes[0].riding and lanes[0].source.next_offset <= lead):
            # Nobody rides yet: all that come here are on their way.
            at = Progress(lead, NO_WATERMARK, NO_WATERMARK, False)
            source = self._source(self.topology.sources[topic], topic, partition, at)
            lanes.insert(0, Lane(source, [], True, 0))
        self.lanes[(topic, partition)] = _pruned(lanes)

    def _source(
        self, described: Source, topic: str, partition: int, at: Progress
    ) -> SourcePartition:
        known = self._decoders.get(topic)
        if known is None or not same_reading(known[0], described):
            registry = open_registry(self._settings, [described])
            limit = self._settings.max_record_bytes
            known = described, Decoder(described, max_record_bytes=limit, registry=registry)
            self._decoders[topic] = known
        partitions = self.partition_counts[topic]
        source = SourcePartition(described, known[1], partition, partitions)
        source.resume(at.offset, at.watermark, SourceClock(at.clock_ms, at.clock_driven))
        return source

    def late(self) -> dict[Partition, int]:
        """What has to be read beside the consumer, and from where."""
        found: dict[Partition, int] = {}
        for at, lanes in self.lanes.items():
            behind = [lane.source.next_offset for lane in lanes if not lane.riding]
            if behind:
                found[at] = min(behind)
        for key, partition in self._late:
            running, state = self.views[(key, partition)]
            held = running.log, partition
            found[held] = min(found.get(held, state.applied), state.applied)
        return found

    def late_readers(self, topic: str, partition: int) -> list[ViewPartition]:
        """States of a key group that are behind what the consumer delivers."""
        return self._readers(topic, partition, late=True)

    def readers(self, topic: str, partition: int) -> list[ViewPartition]:
        """States of a key group that follow the consumer."""
        return self._readers(topic, partition, late=False)

    def _readers(self, topic: str, partition: int, *, late: bool) -> list[ViewPartition]:
        keys = [(each.key, partition) for each in self.topology.readers_of(topic)]
        return [self.views[k][1] for k in keys if k in self.views and (k in self._late) == late]

    def catch_up(self) -> list[str]:
        """Let whatever has reached the consumer ride, and states that have caught up serve.

        Returns the views of which a state partition serves from now on.
        """
        for held in list(self._late):
            running, state = self.views[held]
            if state.applied >= self.read[(running.log, held[1])]:
                self._late.discard(held)
        for at, lanes in self.lanes.items():
            if len(lanes) > 1:
                self._board(at, lanes)
        serving = []
        for held in list(self._quiet):
            (name, number), partition = held
            running, state = self.views[held]
            if held in self._late or (
                running.shuffle is None and not self._rides(running, partition)
            ):
                continue
            older = [
                k for k in self.views if k[0][0] == name and k[0][1] < number and k[1] == partition
            ]
            if state.caught_up(self.views[k][1] for k in older):
                state.speak()
                self._quiet.discard(held)
                for k in older:
                    self._stop(k)
                serving.append(name)
        return serving

    def _board(self, at: Partition, lanes: list[Lane]) -> None:
        for lane in lanes[1:]:
            if lane.riding or lane.source.next_offset < max(
                lanes[0].source.next_offset, lane.until
            ):
                continue
            lane.riding = True
            for other in lanes:
                if other is lane or not other.riding or not other.views:
                    continue
                ahead = other.source.next_offset > lane.source.next_offset
                if not ahead and same_reading(other.source.source, lane.source.source):
                    other.views += lane.views
                    lane.views = []
                    break
        self.lanes[at] = _pruned(lanes)

    def _rides(self, running: RunningView, partition: int) -> bool:
        lanes = self.lanes[(running.log, partition)]
        return any(lane.riding and running.key in [v.key for v in lane.views] for lane in lanes)

    def _stop(self, held: tuple[ViewKey, int]) -> None:
        """A later incarnation serves this partition."""
        running, _ = self.views[held]
        self._forget(held)
        if running.shuffle is None:
            at = running.log, held[1]
            for lane in self.lanes[at]:
                lane.views = [v for v in lane.views if v.key != running.key]
            self.lanes[at] = _pruned(self.lanes[at])

    def resume_offsets(self, assignment: frozenset[Partition]) -> dict[Partition, int]:
        """Where each assigned partition has to be read from."""
        return {
            at: self.lanes[at][0].source.next_offset if at in self.lanes else self.read[at]
            for at in assignment & self.held
        }

    def comes_back(self, topic: str) -> bool:
        """Whether all that a chunk of this topic does comes back to us through the shuffle, so that
        nobody has to be told of it before."""
        if topic not in self.topology.sources or self.topology.direct(topic):
            return False
        return all(
            (each.key, group) in self.views
            for each in self.topology.shuffled(topic)
            for group in range(self._settings.key_groups)
        )

    def stats(self) -> list[tuple[str, EngineStats]]:
        """Size of every state, with the name of its view."""
        return [(each.view.name, held.state.stats()) for each, held in self.views.values()]

    def waiting(self) -> dict[str, int]:
        """View -> how many of its state partitions here wait until they have caught up."""
        found = dict.fromkeys((each.view.name for each in self.topology.views), 0)
        for (name, _), _ in self._quiet:
            found[name] += 1
        return found

    def durable(self, sent: Mapping[ProgressKey, Progress]) -> dict[Partition, int]:
        """Offset below which every effect of a partition's records is durable."""
        found: dict[Partition, int] = {}
        for (topic, partition), lanes in self.lanes.items():
            ends = []
            for each in (v for lane in lanes if lane.riding for v in lane.views):
                if each.shuffle is None:
                    ends.append(self.views[(each.key, partition)][1].committed)
                else:
                    progress = sent.get(ProgressKey(*each.key, partition))
                    ends.append(progress.offset if progress else -1)
            found[(topic, partition)] = min(ends, default=lanes[0].source.next_offset)
        for topic, partition in self.read:
            states = self.readers(topic, partition)
            ends = [state.committed for state in states]
            found[(topic, partition)] = min(ends, default=self.read[(topic, partition)])
        return found


def same_reading(one: Source, other: Source) -> bool:
    """Whether two definitions of a topic make the same events of its records."""
    return (one.schema, one.allowed_lateness_ms, one.max_future_ms, one.key_field) == (
        other.schema,
        other.allowed_lateness_ms,
        other.max_future_ms,
        other.key_field,
    )


def _distinct(sources: Sequence[Source]) -> list[Source]:
    found: list[Source] = []
    for source in sources:
        if not any(same_reading(source, other) for other in found):
            found.append(source)
    return found


def _pruned(lanes: list[Lane]) -> list[Lane]:
    """The lanes that are of use: an empty one only where no other rides."""
    full = [lane for lane in lanes if lane.views]
    riding = [lane for lane in full if lane.riding]
    first = riding or [next(lane for lane in lanes if lane.riding)]
    return [*first, *(lane for lane in full if not lane.riding)]
