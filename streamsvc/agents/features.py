"""The feature worker: event topics in, rows of the online store out. A Faust app that wires rooms.

One thread, the *engine*, does everything that touches state: decoding, judging, applying, cutting.
It also writes a few rows to the store; a second one writes more. The event loop only fetches, sends
and hands over, so the three overlap; kernels and the network release the interpreter lock.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import structlog
from faust.types import TP

from streamsvc.agents.dead_letter_sender import DeadLetterSender
from streamsvc.agents.flusher import Flusher
from streamsvc.agents.holdings import Holdings
from streamsvc.agents.inbox import Inbox
from streamsvc.agents.intake import Intake
from streamsvc.agents.ledger import AckLedger
from streamsvc.agents.shuffle_sender import ShuffleSender
from streamsvc.agents.topic_watch import watch_topics
from streamsvc.agents.topology import Topology, prepare_topology
from streamsvc.agents.turns import Turns
from streamsvc.definitions.plan import Plan
from streamsvc.errors import StreamsvcError
from streamsvc.monitor.metrics import FeatureMetrics, serve_metrics
from streamsvc.settings import Settings
from streamsvc.state.progress import ProgressKey
from streamsvc.state.topics import worker_group
from streamsvc.store.client import connect
from streamsvc.store.read_positions import ReadPosition
from streamsvc.transport.app import create_app, serve
from streamsvc.transport.chunks import Delivery, chunk_topic, chunks
from streamsvc.transport.producer import BatchProducer

__all__ = ["FeatureWorker", "run"]

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
    ) -> None:
        self.settings = settings
        self.topology = topology
        self.metrics = metrics
        self.owner = uuid.uuid4().hex
        group = worker_group(settings.topic_prefix, topology.project, "features")
        self.app = create_app(settings, group, instance_id=instance_id)
        self._engine = ThreadPoolExecutor(1, "engine")
        self._network = ThreadPoolExecutor(1, "store")
        self._producer = BatchProducer(settings, on_failure=self._fatal)
        store = connect(settings, failover_s=settings.redis_failover_s)
        self._holdings = Holdings(settings, topology, self._producer, self.owner, store)
        self._ledger = AckLedger()
        self._dead = DeadLetterSender(
            topology.dead_partitions, topology.topics, self._producer, metrics
        )
        self._flusher = Flusher(
            settings,
            topology.project,
            self.owner,
            store,
            self._producer,
            self._network,
            metrics,
            self._read_positions,
            self._holdings.partition_counts,
        )
        self._senders = {
            topic: ShuffleSender(
                shuffle, topology.shuffled(topic), settings.key_groups, self._producer
            )
            for topic, shuffle in topology.shuffles().items()
        }
        self._intake = Intake(topology, self._holdings, self._dead)
        self._turns = Turns(
            self._engine,
            self._intake,
            self._flusher,
            self._senders,
            lambda: list(self._holdings.views.values()),
            self._holdings.comes_back,
            self._applied,
            self._dead.flush,
            self._committed,
        )
        self._inbox = Inbox([*topology.sources, *topology.shuffles().values()], self._turns.wake)
        self._progress_written: dict[ProgressKey, int] = {}
        self._running: asyncio.Task[None] | None = None
        self._wire()

    # --- wiring ----------------------------------------------------------------------------

    def _wire(self) -> None:
        app = self.app
        app.resume_from = self._resume_from
        for topic in (*self.topology.sources, *self.topology.shuffles().values()):
            self._agent(topic)

        @app.on_before_shutdown.connect
        async def stop(_app: Any, **_: Any) -> None:
            await self._stop()

    def _agent(self, topic: str) -> None:
        async def consume(stream: Any) -> None:
            async for delivery in chunks(stream):
                await self._inbox.put(delivery)

        self.app.agent(chunk_topic(self.app, topic), name=f"chunks:{topic}")(consume)

    async def start(self) -> None:
        """Start what must be up before the first partition is assigned."""
        self._loop = asyncio.get_running_loop()
        await self._producer.start()
        self._running = self._loop.create_task(self._turns.run(self._inbox))
        self._running.add_done_callback(self._ended)
        topics = self.topology.event_topics
        watch = watch_topics(self.settings, lambda: topics, self.topology.sources, self._fatal)
        self._watch = self._loop.create_task(watch)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._fatal(error)

    def _fatal(self, error: BaseException) -> None:
        """Stop the worker: what cannot be delivered or applied must not be passed over."""
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        if self.app.crash_reason is None:
            unforeseen = None if isinstance(error, StreamsvcError) else error
            kind = type(error).__name__
            log.error("worker_stops", error=str(error), kind=kind, exc_info=unforeseen)
            self._crash = asyncio.get_running_loop().create_task(self.app.crash(error))

    async def _stop(self) -> None:
        """A clean stop: what was taken is shuffled, written and committed first.

        After a crash nothing is waited for: what is not committed will be replayed.
        """
        assert self._running is not None
        self._watch.cancel()
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
        before, self._intake.generation = self._intake.generation, self.app.consumer_generation_id
        kept = assignment
        if before not in (-1, self._intake.generation - 1):
            # A generation went by without us, in which others may have held what we hold.
            kept -= await self._holdings.opened_by_others()
        for partition in await self._on_engine(lambda: self._holdings.release(kept)):
            self._ledger.drop(partition)
        with self.metrics.restore.time():
            taken = await self._holdings.take(assignment, self._on_engine)
        if taken:
            log.info("partitions_taken_over", count=taken, owner=self.owner)
        offsets = self._holdings.resume_offsets(assignment)
        return {TP(*partition): offset for partition, offset in offsets.items()}

    # --- records ---------------------------------------------------------------------------

    def _applied(self, delivery: Delivery) -> None:
        chunk = delivery.chunk
        if chunk.topic in self.topology.sources:
            self.metrics.events.labels(chunk.topic).inc(len(chunk))
        self._ledger.add((chunk.topic, chunk.partition), chunk.next_offset, delivery.ack)

    def _on_engine(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return self._loop.run_in_executor(self._engine, call)

    def _read_positions(self, now_ms: int) -> dict[tuple[str, int], ReadPosition]:
        """How far our source partitions are read, and until when that was all there was.

        If nothing is left of what the broker told us of, until it told us; else until the newest
        record was written.
        """
        found, skew_ms = {}, self.settings.clock_skew_ms
        for (topic, partition), source in self._holdings.sources.items():
            tp = TP(topic, partition)
            highwater = self._highwater(tp)
            read = self.app.consumer.ledger.past_blanks(tp, source.next_offset)
            whole = highwater is not None and read >= highwater
            newest = min(source.read_until_ms, now_ms) - skew_ms
            told = self.app.consumer.told_until_ms(tp, now_ms, skew_ms) if whole else newest
            found[(topic, partition)] = ReadPosition(source.next_offset, max(told, newest))
        return found

    def _highwater(self, tp: TP) -> int | None:
        try:
            end: int | None = self.app.consumer.highwater(tp)
        except AssertionError:  # aiokafka's word for a partition that was just taken away
            return None
        return end

    # --- durability ------------------------------------------------------------------------

    async def _committed(self) -> None:
        """After a round of commits: shuffle progress, then acknowledgements."""
        sent = {key: p for sender in self._senders.values() for key, p in sender.sent.items()}
        # Whatever was refused before these rows were offered has to be delivered first.
        await self._dead.flush()
        # On the engine, where a rebalance installs what was taken over.
        durable, stats = await self._on_engine(
            lambda: (self._holdings.durable(sent), self._holdings.stats())
        )
        records = []
        for key, progress in sent.items():
            if self._progress_written.get(key) != progress.offset:
                self._progress_written[key] = progress.offset
                records.append((key.encode(), progress.encode(), ()))
        if records:
            await (await self._producer.send(self.topology.topics.progress, 0, records))
        for held_partition, offset in durable.items():
            self._ledger.release(held_partition, offset)
        self.metrics.show_state(stats)


async def run(settings: Settings, plan: Plan, instance_id: str | None = None) -> None:
    """Run a feature worker until SIGTERM or SIGINT.

    Raises what stopped it: ConfigurationError, UnavailableError or IntegrityError.
    """
    topology = await prepare_topology(settings, plan)
    metrics = FeatureMetrics()
    port = serve_metrics(metrics.registry, settings.metrics_port)
    worker = FeatureWorker(settings, topology, metrics, instance_id)
    await worker.start()
    views = [each.view.name for each in topology.views]
    log.info("feature_worker_started", views=views, metrics_port=port, owner=worker.owner)
    await serve(worker.app)
    log.info("feature_worker_stopped")
