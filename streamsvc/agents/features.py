"""The feature worker: event topics in, rows of the online store out. A Faust app that wires rooms.

One thread, the *engine*, does everything that touches state: decoding, judging, applying, cutting.
It also writes a few rows to the store; a second one writes more. The event loop only fetches, sends
and hands over, so the three overlap; kernels and the network release the interpreter lock.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog
from faust.types import TP

from streamsvc.agents.catch_up import CatchUp
from streamsvc.agents.dead_letter_sender import DeadLetterSender
from streamsvc.agents.definition_watch import Definitions, watch_definitions
from streamsvc.agents.durability import Durability
from streamsvc.agents.flusher import Flusher
from streamsvc.agents.holdings import Holdings
from streamsvc.agents.inbox import LATE_TURN_ROWS, Inbox
from streamsvc.agents.intake import Intake
from streamsvc.agents.preparing import prepare_topology
from streamsvc.agents.read_positions import read_positions
from streamsvc.agents.shuffle_sender import ShuffleSender
from streamsvc.agents.standby import Standby
from streamsvc.agents.subscription import Subscription
from streamsvc.agents.taking_over import TakingOver
from streamsvc.agents.tidying import Tidying
from streamsvc.agents.topic_watch import watch_topics
from streamsvc.agents.topology import Topology, ViewKey
from streamsvc.agents.turns import Turns
from streamsvc.agents.update_sender import UpdateSender
from streamsvc.agents.warm import warm
from streamsvc.definitions.plan import Plan
from streamsvc.errors import ConfigurationError
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings
from streamsvc.state.topics import worker_group
from streamsvc.store.client import connect
from streamsvc.store.row_store import PackedRowStore, RowStore
from streamsvc.transport.app import create_app
from streamsvc.transport.chunks import Delivery
from streamsvc.transport.producer import BatchProducer

__all__ = ["FeatureWorker"]

log = structlog.get_logger(__name__)
T = TypeVar("T")


class FeatureWorker:
    """Runs all views of a topology for the partitions that the group assigns to this process."""

    def __init__(
        self,
        settings: Settings,
        topology: Topology,
        metrics: FeatureMetrics,
        instance_id: str | None = None,
        definitions: Definitions | None = None,
        rows: RowStore | None = None,
    ) -> None:
        """Follows `definitions` as they change, if they are given. Rows go to the store that the
        settings name unless there are others, `rows`."""
        self._definitions = definitions
        self.settings = settings
        self.metrics = metrics
        self.owner = uuid.uuid4().hex
        group = worker_group(settings.topic_prefix, topology.project, "features")
        self.app = create_app(settings, group, instance_id=instance_id)
        self._engine = ThreadPoolExecutor(1, "engine")
        self._network = ThreadPoolExecutor(1, "store")
        self._producer = BatchProducer(settings, on_failure=self.app.fail)
        if rows is None:
            client = connect(settings, failover_s=settings.redis_failover_s)
            rows = PackedRowStore(client, topology.project, self.owner)
        self._rows = rows
        self._holdings = Holdings(settings, topology)
        self._standby = Standby(settings, self.owner, self._holdings, metrics, self.app.fail)
        self._taking_over = TakingOver(
            settings,
            self.owner,
            self._producer,
            rows,
            self._holdings,
            self._on_engine,
            self._not_built,
            self._standby,
            metrics,
        )
        self._dead = DeadLetterSender(
            topology.dead_partitions, topology.topics, self._producer, metrics
        )
        self._updates = UpdateSender(topology.update_partitions, self._producer, metrics)
        self._flusher = Flusher(
            settings,
            self.owner,
            rows,
            self._producer,
            self._network,
            metrics,
            lambda now_ms: read_positions(
                self._holdings.sources, self.app.consumer, settings.clock_skew_ms, now_ms
            ),
            self._holdings.partition_counts,
            self._updates,
        )
        self._senders: dict[str, ShuffleSender] = {}
        self._run_senders(topology)
        self._intake = Intake(self._holdings, self._dead)
        self._turns = Turns(
            self._engine,
            self._intake,
            self._flusher,
            self._senders,
            lambda: list(self._holdings.views.values()),
            self._holdings.comes_back,
            self._caught_up,
            self._applied,
            self._dead.flush,
            Durability(
                self.app,
                self._holdings,
                self._senders,
                self._producer,
                self._dead,
                metrics,
                self._on_engine,
            ).committed,
        )
        self.app.fetch_gate = self._turns.wanting
        self._inbox = Inbox((), self._turns.wake)
        self._late = Inbox((), self._turns.wake, LATE_TURN_ROWS)
        self._subscription = Subscription(self.app, self._inbox)
        self._catch_up = CatchUp(
            settings, self._holdings, self._late, self._on_engine, self._deleted, self.app.fail
        )
        self._tidying = Tidying(settings, rows, self._holdings)
        self._held = asyncio.Lock()
        """Whoever changes what is held: a rebalance, or changed definitions."""
        self._told_not_built: set[ViewKey] = set()
        self._running: asyncio.Task[None] | None = None
        self._wire()

    @property
    def topology(self) -> Topology:
        """What is run."""
        return self._holdings.topology

    # --- wiring ----------------------------------------------------------------------------

    def _wire(self) -> None:
        app = self.app
        app.resume_from = self._resume_from
        self._subscription.begin(self.topology.read)

        @app.on_before_shutdown.connect
        async def stop(_app: Any, **_: Any) -> None:
            await self._stop()

    def _run_senders(self, topology: Topology) -> None:
        for topic, shuffle in topology.shuffles().items():
            views = topology.shuffled(topic)
            if topic in self._senders:
                self._senders[topic].run(views)
            else:
                groups = self.settings.key_groups
                self._senders[topic] = ShuffleSender(shuffle, views, groups, self._producer)

    async def start(self) -> None:
        """Start what must be up before the first partition is assigned."""
        self._loop = asyncio.get_running_loop()
        # The engine's first job, while the group settles: else the first events wait for it.
        self.app.watch(self._on_engine(_make_ready))
        await self._producer.start()
        self._running = self._loop.create_task(self._turns.run(self._inbox, self._late))
        self.app.watch(self._running)
        watch = watch_topics(
            self.settings,
            lambda: self.topology.event_topics,
            lambda: self.topology.sources,
            self.app.fail,
        )
        self._watches = [self._loop.create_task(watch)]
        if self._definitions is not None:
            follow = watch_definitions(
                self.settings, self._definitions, self.change, self.metrics.definitions
            )
            self._watches += [
                self._loop.create_task(follow),
                self._loop.create_task(self._tidying.run()),
            ]
        for task in self._watches:
            self.app.watch(task)

    async def _stop(self) -> None:
        """A clean stop: what was taken is shuffled, written and committed first.

        After a crash nothing is waited for: what is not committed will be replayed.
        """
        assert self._running is not None
        for watch in self._watches:
            watch.cancel()
        await self._catch_up.stop()
        await self._standby.stop()
        if self.app.crash_reason is None:
            self._turns.end()
        else:
            self._running.cancel()
        await asyncio.wait([self._running])
        if not self._running.cancelled() and self._running.exception() is None:
            await self._turns.finish()
        await self._producer.stop()
        self._engine.shutdown()
        self._network.shutdown()

    # --- rebalance -------------------------------------------------------------------------

    async def _resume_from(self, assignment: frozenset[Any]) -> Mapping[Any, int]:
        """Take over what is new, let go what is gone; where to read each partition from."""
        # Chunks of an earlier assignment that are still on their way are void: the positions below
        # start where their predecessors ended, so they will be read again.
        generation = self.app.consumer_generation_id
        async with self._held:
            if generation != self.app.consumer_generation_id:
                return {}  # the group has moved on: others may hold by now what this is about
            before, self._intake.generation = self._intake.generation, generation
            kept = assignment
            if before not in (-1, self._intake.generation - 1):
                # A generation went by without us, in which others may have held what we hold.
                kept -= await self._taking_over.opened_by_others()
            await self._on_engine(lambda: self._holdings.release(kept))
            with self.metrics.restore.time():
                taken = await self._taking_over.take(assignment)
            if taken:
                log.info("partitions_taken_over", count=taken, owner=self.owner)
            offsets = self._holdings.resume_offsets(assignment)
            await self._catch_up.look()
            self._standby.look()
        return {TP(*partition): offset for partition, offset in offsets.items()}

    # --- changed definitions ---------------------------------------------------------------

    async def change(self, plan: Plan) -> None:
        """Run another plan from now on. Views that both have go on where they are.

        Raises a StreamsvcError, and goes on with the plan before, if the other one cannot run.
        """
        if not plan.views:
            raise ConfigurationError(
                "No StreamFeatureView is applied any more. Stop the feature workers, or apply one."
            )
        # In a thread of its own: it asks Kafka many things and waits for each of them.
        with self.metrics.switch.time():
            planned = await asyncio.to_thread(
                lambda: asyncio.run(
                    prepare_topology(self.settings, plan, running=True, rows=self._rows)
                )
            )
            wanted = planned.after(self.topology)
            async with self._held:
                await self._switch(wanted)

    async def _switch(self, wanted: Topology) -> None:
        before = self.topology
        self._dead.partitions |= wanted.dead_partitions
        self._updates.partitions |= wanted.update_partitions
        if [(v.key, v.quiet) for v in wanted.views] == [(v.key, v.quiet) for v in before.views]:
            await self._on_engine(lambda: self._holdings.adopt(wanted))
            return
        self._run_senders(wanted)
        await self._taking_over.change(wanted)
        await self._catch_up.look()
        self._standby.look()
        await self._subscription.change(wanted.read)
        log.info(
            "definitions_changed",
            begun=sorted({v.key for v in wanted.views} - {v.key for v in before.views}),
            ended=sorted({v.key for v in before.views} - {v.key for v in wanted.views}),
        )

    async def _deleted(self, topic: str) -> None:
        """Records were deleted that a view still had to read beside the consumer."""
        async with self._held:
            await self._taking_over.deleted(topic)

    def _not_built(self, key: ViewKey, why: str) -> None:
        if key in self._told_not_built:
            return  # after a rebalance
        self._told_not_built.add(key)
        self.metrics.definitions.labels("refused").inc()
        view, incarnation = key
        log.error("view_not_built", view=view, incarnation=incarnation, error=why)

    def _caught_up(self) -> None:
        for view in self._holdings.catch_up():
            log.info("view_serves", view=view)

    # --- records ---------------------------------------------------------------------------

    def _applied(self, delivery: Delivery) -> None:
        chunk = delivery.chunk
        if chunk.topic in self.topology.sources:
            self.metrics.events.labels(chunk.topic).inc(len(chunk))

    def _on_engine(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._engine, call)


def _make_ready() -> None:
    began = time.monotonic()
    warm()
    log.info("kernels_ready", seconds=round(time.monotonic() - began, 1))
