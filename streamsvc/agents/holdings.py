"""What a feature worker holds: the state of the partitions that are assigned to it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from functools import partial

from streamsvc.agents.kept import Kept
from streamsvc.agents.lanes import Lanes, same_reading
from streamsvc.agents.topology import RunningView, States, Topology, ViewKey
from streamsvc.definitions.plan import Source
from streamsvc.events.decode import Decoder
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.features.engine import EngineStats
from streamsvc.settings import Settings
from streamsvc.state.events import SourceClock
from streamsvc.state.partition import ViewPartition
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.state.source import SourcePartition
from streamsvc.transport.schema_registry import open_registry

__all__ = ["Holdings", "Partition"]

Partition = tuple[str, int]


class Holdings:
    """Lanes by (topic, partition) of event topics, view states by (view, partition)."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
    ) -> None:
        self.lanes: dict[Partition, Lanes] = {}
        """Of each event partition."""
        self.views: States = {}
        self.offered: dict[tuple[ViewKey, int], int] = {}
        """(view, source partition) -> next source offset to be shuffled."""
        self._offered_before: dict[tuple[ViewKey, int], int] = {}
        """The same as it was when we began: below it others have seen to it."""
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
        self._decoders: dict[str, tuple[Source, Decoder]] = {}

    @property
    def sources(self) -> dict[Partition, SourcePartition]:
        """Where the consumer is in each event partition."""
        return {partition: lanes.lead for partition, lanes in self.lanes.items()}

    @property
    def held(self) -> set[Partition]:
        """All partitions that are assigned to us."""
        return {*self.lanes, *self.read}

    # --- rebalance -------------------------------------------------------------------------

    def release(self, assignment: frozenset[Partition]) -> None:
        """Forget what is no longer assigned."""
        gone = [p for p in self.held if p not in assignment]
        for topic, partition in gone:
            for each in self.topology.views:
                held = each.key, partition
                if each.log == topic:
                    self._forget(held)
                if each.view.source.topic == topic:
                    self.offered.pop(held, None)
                    self._offered_before.pop(held, None)
            self.lanes.pop((topic, partition), None)
            self.read.pop((topic, partition), None)
        self.version += bool(gone)

    def adopt(self, topology: Topology) -> None:
        """Go over to a topology; views of both run on as the new one describes them, which may say
        that their rows go elsewhere."""
        self.topology = topology
        known = {each.key: each for each in topology.views}
        for held, (running, state) in self.views.items():
            self.views[held] = known.get(held[0], running), state
            state.tell(each_event=self.views[held][0].view.each_event)

    def _replace_topology(self, topology: Topology) -> None:
        """Let go what another topology does not have."""
        self.adopt(topology)
        wanted = {each.key for each in topology.views}
        for held in [held for held in self.views if held[0] not in wanted]:
            self._forget(held)
        for lanes in self.lanes.values():
            lanes.keep(lambda view: view.key in wanted)
        for at in self.held:
            if at[0] not in topology.read:
                self.lanes.pop(at, None)
                self.read.pop(at, None)
        for held in [held for held in self.offered if held[0] not in wanted]:
            del self.offered[held], self._offered_before[held]
        # One incarnation that waits is enough: the newest.
        newest = {each.view.name: each.incarnation for each in topology.views if each.quiet}
        for held in list(self._quiet):
            (name, number), _ = held
            if number < newest.get(name, 0):
                self._stop(held)

    def install(
        self,
        topology: Topology,
        views: Sequence[RunningView],
        states: States,
        kept: Sequence[Kept],
        progress: Mapping[ProgressKey, Progress],
        *,
        begin: bool,
    ) -> None:
        """Go over to a topology, and hold the states of these views of it.

        `kept` are the partitions that they read; `progress` says how far each is shuffled. The
        partitions `begin` here, or have been read for some time: then whatever is behind catches
        up beside the others. All in one step: a state that is there and is not fed would have a
        hole.
        """
        if topology is not self.topology:
            self._replace_topology(topology)
        self.views.update(states)
        for running, state in states.values():
            state.each_event = running.view.each_event
        self._quiet |= {held for held, (_, state) in states.items() if state.quiet}
        for log in kept:
            if log.topic in topology.sources:
                self._install_source(log, views, progress, begin=begin)
            else:
                self._install_group(log, views, begin=begin)
        self.version += 1

    def _forget(self, held: tuple[ViewKey, int]) -> None:
        self.views.pop(held, None)
        self._late.discard(held)
        self._quiet.discard(held)

    def state_partitions(self, each: RunningView) -> int:
        """How many the view has."""
        topic = each.view.source.topic
        return self._settings.key_groups if each.shuffle else self.partition_counts[topic]

    def behind(self, topic: str) -> list[tuple[int, list[tuple[RunningView, int]]]]:
        """By partition, what is behind the consumer, and where."""
        found: defaultdict[int, list[tuple[RunningView, int]]] = defaultdict(list)
        for (log, partition), lanes in self.lanes.items():
            for lane in lanes.behind if log == topic else ():
                found[partition] += [(each, lane.source.next_offset) for each in lane.views]
        for held in self._late:
            running, state = self.views[held]
            if running.log == topic:
                found[held[1]].append((running, state.applied))
        return list(found.items())

    def give_up(self, keys: Collection[ViewKey]) -> None:
        """Let go of new incarnations, except where they are served already."""
        for held in [held for held in self._quiet if held[0] in keys]:
            self._stop(held)
        for lanes in self.lanes.values():
            lanes.keep(lambda view: view.shuffle is None or view.key not in keys)
        self.version += 1

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
                self.offered[held] = self._offered_before[held] = found.offset
            elif held in self.views:
                found = self.views[held][1].position() or fresh
            else:
                continue  # a later incarnation serves here already
            positions.append((each, found))
        lanes = self.lanes.setdefault((topic, partition), Lanes())
        leaders = [at.offset for v, at in positions if not v.quiet]
        lead = min(leaders, default=kept.end) if begin else lanes.lead.next_offset
        until = kept.end if kept.end > kept.begin else 0
        described = self.topology.sources[topic]
        lanes.join(positions, lead, until, described, partial(self._source, topic, partition))

    def _source(
        self, topic: str, partition: int, described: Source, at: Progress
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
            behind = [lane.source.next_offset for lane in lanes.behind]
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
        for lanes in self.lanes.values():
            lanes.board()
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

    def _rides(self, running: RunningView, partition: int) -> bool:
        return running.key in [view.key for view in self.lanes[(running.log, partition)].riding]

    def _stop(self, held: tuple[ViewKey, int]) -> None:
        """A later incarnation serves this partition."""
        running, _ = self.views[held]
        self._forget(held)
        if running.shuffle is None:
            self.lanes[(running.log, held[1])].leave(running.key)

    def resume_offsets(self, assignment: frozenset[Partition]) -> dict[Partition, int]:
        """Where each assigned partition has to be read from."""
        return {
            at: self.lanes[at].lead.next_offset if at in self.lanes else self.read[at]
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
        """Offset below which every effect of a partition's records is durable.

        `sent` is how far we know that each view's rows are in the shuffle.
        """
        found: dict[Partition, int] = {}
        for (topic, partition), lanes in self.lanes.items():
            ends = []
            for each in lanes.riding:
                if each.shuffle is None:
                    ends.append(self.views[(each.key, partition)][1].committed)
                else:
                    progress = sent.get(ProgressKey(*each.key, partition))
                    before = self._offered_before[(each.key, partition)]
                    ends.append(max(progress.offset, before) if progress else before)
            found[(topic, partition)] = min(ends, default=lanes.lead.next_offset)
        for topic, partition in self.read:
            states = self.readers(topic, partition)
            ends = [state.committed for state in states]
            found[(topic, partition)] = min(ends, default=self.read[(topic, partition)])
        return found
