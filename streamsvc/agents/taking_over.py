"""Taking partitions over: what the group assigns, and what changed definitions add to it.

Whatever is asked of Kafka and the store for that is asked here, on the event loop. What comes of it
is installed on the engine thread, in one step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence

from streamsvc.agents.holdings import Holdings, Partition
from streamsvc.agents.kept import Kept, lost_builds, served_from
from streamsvc.agents.restoring import OnEngine, Restoring
from streamsvc.agents.standby import Standby
from streamsvc.agents.topic_watch import changed
from streamsvc.agents.topology import RunningView, States, Topology, ViewKey
from streamsvc.errors import IntegrityError
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.state.restore import opened_since, restore_progress
from streamsvc.store.row_store import RowStore
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer

__all__ = ["TakingOver"]


class TakingOver:
    """Fills the holdings of one worker. Its calls may not overlap."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        producer: BatchProducer,
        rows: RowStore,
        holdings: Holdings,
        on_engine: OnEngine,
        not_built: Callable[[ViewKey, str], None],
        standby: Standby,
        metrics: FeatureMetrics,
    ) -> None:
        """`not_built` is told of every new incarnation that is given up, and why."""
        self._settings = settings
        self._owner = owner
        self._rows = rows
        self._holdings = holdings
        self._on_engine = on_engine
        self._not_built = not_built
        self._admin = Admin(settings)
        self._restoring = Restoring(
            settings, owner, producer, rows, self._admin, on_engine, standby, metrics
        )

    async def opened_by_others(self) -> frozenset[Partition]:
        """Of what is held, the partitions that another worker took over meanwhile.

        A worker that was away from its group for a while may be given back what it held before. Its
        state is behind then, and its commits count for nobody.
        """
        found: set[Partition] = set()
        for each in self._holdings.topology.views:
            views = self._holdings.views.values()
            held = [state for running, state in views if running.key == each.key]
            known = {state.partition: state.trimming.known for state in held}
            logs = await opened_since(self._settings, each.changelog, self._owner, known)
            found |= {(each.log, p) for p, (_, opened) in logs.items() if opened}
        return frozenset(found)

    async def take(self, assignment: frozenset[Partition]) -> int:
        """Restore what is newly assigned; returns how many partitions that was.

        Raises IntegrityError when the log no longer holds what a view still has to read.
        """
        # For a moment, the group may still assign a topic that nobody here reads any more.
        topology = self._holdings.topology
        wanted = set(topology.read)
        new = sorted(at for at in assignment - self._holdings.held if at[0] in wanted)
        if new:
            await self._look_at_topics()
            await self._take(topology, topology.views, new, begin=True)
        return len(new)

    async def change(self, topology: Topology) -> None:
        """Run another topology on what is held: what both have goes on where it is.

        Raises IntegrityError, and changes nothing, when the log no longer holds what a view that is
        new here still has to read.
        """
        before = {each.key for each in self._holdings.topology.views}
        added = [each for each in topology.views if each.key not in before]
        await self._look_at_topics()
        await self._take(topology, added, sorted(self._holdings.held), begin=False)

    async def deleted(self, topic: str) -> None:
        """Give up the new incarnations that are behind on a topic at records that were deleted.

        Raises IntegrityError if a view that is served was to read such records, too.
        """
        begins = await asyncio.to_thread(self._admin.start_offsets, topic)
        ends = await asyncio.to_thread(self._admin.end_offsets, topic)
        behind: list[tuple[int, list[tuple[RunningView, int]]]] = []
        await self._on_engine(lambda: behind.extend(self._holdings.behind(topic)))
        lost: dict[ViewKey, str] = {}
        for partition, positions in behind:
            kept = Kept(topic, partition, begins[partition], ends[partition])
            lost |= await self._lost_builds(kept, positions, self._holdings.views)
        await self._on_engine(lambda: self._holdings.give_up(lost.keys()))
        self._tell(lost)

    async def _take(
        self,
        topology: Topology,
        views: Sequence[RunningView],
        partitions: Sequence[Partition],
        *,
        begin: bool,
    ) -> None:
        """Restore these views of a topology on these partitions, and go over to it."""
        states: States = {}
        for each in views:
            numbers = [p for topic, p in partitions if topic == each.log]
            if numbers:
                states |= await self._restoring.restore(each, numbers)
        topics = {each.view.source.topic for each in views} | {each.log for each in views}
        kept = await self._kept([at for at in partitions if at[0] in topics])
        progress: dict[ProgressKey, Progress] = {}
        read = {each.topic for each in kept}
        if any(v.shuffle is not None and v.view.source.topic in read for v in views):
            progress = await restore_progress(self._settings, topology.topics.progress)
        lost: dict[ViewKey, str] = {}
        for log in kept:
            positions, fresh = _positions(log, views, states, progress)
            count = self._holdings.state_partitions
            for each in fresh:
                began = await served_from(self._rows, count, log, each)
                if began is not None:
                    positions.append((each, began))
            lost |= await self._lost_builds(log, positions, states)
        self._tell(lost)
        views = [each for each in views if each.shuffle is None or each.key not in lost]
        states = {
            held: found
            for held, found in states.items()
            if held[0] not in lost or not found[1].quiet
        }
        await self._on_engine(
            lambda: self._holdings.install(topology, views, states, kept, progress, begin=begin)
        )

    async def _look_at_topics(self) -> None:
        """Count all event topics, not only those we read: partitions may have been added anywhere.

        Raises IntegrityError if a topic is another one than the views were made for.
        """
        topology = self._holdings.topology
        now = await asyncio.to_thread(self._admin.describe, list(topology.event_topics))
        for topic, state in topology.event_topics.items():
            why = changed(topic, state, now.get(topic), topology.sources[topic])
            if why is not None:
                raise IntegrityError(why)
            self._holdings.partition_counts[topic] = now[topic].partitions

    async def _kept(self, partitions: Collection[Partition]) -> list[Kept]:
        topics = {topic for topic, _ in partitions}
        begins = {t: await asyncio.to_thread(self._admin.start_offsets, t) for t in topics}
        ends = {t: await asyncio.to_thread(self._admin.end_offsets, t) for t in topics}
        return [Kept(t, p, begins[t][p], ends[t][p]) for t, p in partitions]

    async def _lost_builds(
        self, kept: Kept, positions: Sequence[tuple[RunningView, int]], states: States
    ) -> dict[ViewKey, str]:
        count = self._holdings.state_partitions
        return await lost_builds(self._rows, count, kept, positions, states)

    def _tell(self, lost: Mapping[ViewKey, str]) -> None:
        for key, why in lost.items():
            self._not_built(key, why)


def _positions(
    kept: Kept,
    views: Sequence[RunningView],
    states: States,
    progress: Mapping[ProgressKey, Progress],
) -> tuple[list[tuple[RunningView, int]], list[RunningView]]:
    """Where views go on that have been in this partition before, and those that read its records
    and have committed nothing of them."""
    found: list[tuple[RunningView, int]] = []
    fresh: list[RunningView] = []
    for each in views:
        held = states.get((each.key, kept.partition))
        if each.shuffle is not None and each.view.source.topic == kept.topic:
            if sent := progress.get(ProgressKey(*each.key, kept.partition)):
                found.append((each, sent.offset))
            else:
                fresh.append(each)
        elif each.log == kept.topic and held is not None:
            if held[1].committed >= 0:
                found.append((each, held[1].applied))
            elif each.shuffle is None:
                fresh.append(each)
    return found, fresh
