"""State partitions that are taken over: read from their changelogs, and held against the store.

What the store has decides how they go on. A new incarnation that is not served yet waits until it
contains what the one before does; rows that were written once and are not there are written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import structlog

from streamsvc.agents.standby import Standby
from streamsvc.agents.topology import RunningView, States
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings
from streamsvc.state.changelog import End
from streamsvc.state.partition import ViewPartition
from streamsvc.state.restore import restore_partitions
from streamsvc.store.markers import Marker
from streamsvc.store.row_store import RowStore
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer

__all__ = ["OnEngine", "Restoring"]

log = structlog.get_logger(__name__)

OnEngine: TypeAlias = Callable[[Callable[[], None]], Awaitable[None]]


class Restoring:
    """Restores state partitions for one worker."""

    def __init__(
        self,
        settings: Settings,
        owner: str,
        producer: BatchProducer,
        rows: RowStore,
        admin: Admin,
        on_engine: OnEngine,
        standby: Standby,
        metrics: FeatureMetrics,
    ) -> None:
        self._settings = settings
        self._owner = owner
        self._producer = producer
        self._rows = rows
        self._admin = admin
        self._on_engine = on_engine
        self._standby = standby
        self._metrics = metrics

    async def restore(self, each: RunningView, partitions: list[int]) -> States:
        """The view's state in these partitions, ready to go on; without those that a later
        incarnation serves already.

        Raises IntegrityError for a log that lost its beginning.
        """
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
            await self._standby.hand_over(each, partitions),
        )
        self._metrics.restored_tiles.labels(name).inc(sum(r.tiles for r in restored.values()))
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
                elif partition in lost or (each.quiet and each.view.updates is not None):
                    # Of one that serves since a while ago nobody knows whether it was told.
                    state.refill()

        await self._on_engine(resume)
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
