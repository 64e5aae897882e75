"""The archive worker: event topics in, Parquet files out. A Faust app that wires rooms.

The files are the only truth about how far a partition is archived: a worker goes on where they end.
The group's offsets follow them, as a gauge of lag.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import structlog
from faust.types import TP

from streamsvc.agents.archive_targets import ArchiveTarget, archive_targets
from streamsvc.agents.dead_letter_sender import DeadLetterSender
from streamsvc.archive.names import Log, logs_of
from streamsvc.archive.writing import PartitionWriter
from streamsvc.definitions.plan import Plan
from streamsvc.events.wire import Reject
from streamsvc.monitor.metrics import ArchiveMetrics, serve_metrics
from streamsvc.settings import Settings
from streamsvc.state.topics import InternalTopics, worker_group
from streamsvc.transport.admin import Admin
from streamsvc.transport.app import create_app, serve
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.chunks import Delivery, chunk_topic, chunks
from streamsvc.transport.producer import BatchProducer

__all__ = ["ArchiveWorker", "run"]

log = structlog.get_logger(__name__)
T = TypeVar("T")
Partition = tuple[str, int]

TICK_S = 0.25


class ArchiveWorker:
    """Archives the partitions that the group assigns to this process.

    One thread gathers, writes and merges; while it does, nothing more is taken in.
    """

    def __init__(
        self,
        settings: Settings,
        project: str,
        targets: Sequence[ArchiveTarget],
        metrics: ArchiveMetrics,
        *,
        accept_loss: bool = False,
        instance_id: str | None = None,
    ) -> None:
        self._settings = settings
        self._targets = {target.source.topic: target for target in targets}
        self._metrics = metrics
        self._accept_loss = accept_loss
        self._admin = Admin(settings)
        self._thread = ThreadPoolExecutor(1, "archive")
        group = worker_group(settings.topic_prefix, project, "archive")
        self.app = create_app(settings, group, instance_id=instance_id)
        self._producer = BatchProducer(settings, on_failure=self.app.fail)
        topics = InternalTopics(settings.topic_prefix, project)
        partitions = {t.source.topic: t.dead_partitions for t in targets if t.dead_partitions}
        self._sends_letters = bool(partitions)
        self._dead = DeadLetterSender(partitions, topics, self._producer, metrics)
        self._writers: dict[Partition, PartitionWriter] = {}
        self._generation = -1
        self._busy = asyncio.Lock()
        """Held while one partition's records are taken in, or files made of them."""
        self._ticking: asyncio.Task[None] | None = None
        self._wire()

    def _wire(self) -> None:
        app = self.app
        app.resume_from = self._resume_from
        for topic in self._targets:

            async def consume(stream: Any) -> None:
                async for delivery in chunks(stream):
                    await self._take(delivery)

            app.agent(chunk_topic(app, topic), name=f"chunks:{topic}")(consume)

        @app.on_partitions_revoked.connect
        async def revoked(_app: Any, *_args: Any, **_: Any) -> None:
            self._generation = -1  # whoever owns them next may be writing already

        @app.on_before_shutdown.connect
        async def stop(_app: Any, **_: Any) -> None:
            await self._stop()

    async def start(self) -> None:
        """Start what must be up before the first partition is assigned."""
        if self._sends_letters:  # Kafka's ACLs refuse a producer that may write to no topic
            await self._producer.start()
        self._ticking = asyncio.create_task(self._tick())
        self.app.watch(self._ticking)

    async def _stop(self) -> None:
        """What was gathered becomes files, unless a crash makes that doubtful."""
        assert self._ticking is not None
        self._ticking.cancel()
        await asyncio.wait([self._ticking])
        async with self._busy:
            if self.app.crash_reason is None:
                await self._write(list(self._writers))
            self._generation = -1
        await self._producer.stop()
        self._thread.shutdown()

    # --- rebalance -------------------------------------------------------------------------

    async def _resume_from(self, assignment: frozenset[Any]) -> Mapping[Any, int]:
        """Begin anew where the files end, with partitions that were ours before, too."""
        generation = self.app.consumer_generation_id
        writers = await self._on_thread(lambda: self._open(assignment))
        self._writers, self._generation = writers, generation
        return {TP(*partition): writer.next_offset for partition, writer in writers.items()}

    def _open(self, assignment: frozenset[Any]) -> dict[Partition, PartitionWriter]:
        found = {}
        for topic in sorted({topic for topic, _ in assignment}):
            target = self._targets[topic]
            topic_id = self._admin.topic_id(topic)
            begins, ends = self._admin.start_offsets(topic), self._admin.end_offsets(topic)
            logs = logs_of(target.storage.files())
            for number in sorted(p for t, p in assignment if t == topic):
                this = Log.of(topic_id, number)
                found[(topic, number)] = PartitionWriter(
                    target.storage,
                    target.source,
                    target.decoder,
                    this,
                    len(begins),
                    logs.get(this, []),
                    (begins[number], ends[number]),
                    accept_loss=self._accept_loss,
                )
        return found

    # --- records ---------------------------------------------------------------------------

    async def _take(self, delivery: Delivery) -> None:
        chunk = delivery.chunk
        partition = (chunk.topic, chunk.partition)
        async with self._busy:
            writer = self._writers.get(partition)
            if writer is None or chunk.generation != self._generation:
                return  # of an earlier assignment: it comes again, here or elsewhere
            unread = writer.unread(chunk)
            if unread is not None and len(unread):
                if writer.day_ends_before(unread):
                    await self._write([partition])
                rejects = await self._on_thread(lambda: writer.take(unread, time.monotonic()))
                self._refused(unread, rejects)
                self._metrics.events.labels(chunk.topic).inc(len(unread))
            held = {p: w.bytes for p, w in self._writers.items()}
            if sum(held.values()) > self._settings.archive_buffer_bytes:
                await self._write([max(held, key=lambda p: held[p])])

    def _refused(self, chunk: Chunk, rejects: Sequence[Reject]) -> None:
        if self._targets[chunk.topic].dead_partitions:
            self._dead.offer(chunk, rejects)  # which counts them
            return
        for reject in rejects:
            self._metrics.dead_letters.labels(chunk.topic, reject.reason).inc()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            oldest = time.monotonic() - self._settings.archive_interval_s
            async with self._busy:
                await self._write([p for p, w in self._writers.items() if w.opened_at <= oldest])
            if self._generation >= 0:
                self.app.done_below({TP(*p): w.written_until for p, w in self._writers.items()})

    # --- files -----------------------------------------------------------------------------

    async def _write(self, partitions: Iterable[Partition]) -> None:
        """Make files of what was gathered of these partitions. The caller is `_busy`."""
        generation = self._generation
        for partition in partitions:
            writer = self._writers.get(partition)
            # What was refused has to be safe before a file says that its range is done.
            await self._dead.flush()
            if writer is None or generation != self._generation:
                return
            await self._on_thread(partial(self._file, writer, partition[0], generation))
            if generation == self._generation:
                self.app.done_below({TP(*partition): writer.written_until})

    def _file(self, writer: PartitionWriter, topic: str, generation: int) -> None:
        if generation != self._generation:
            return  # taken away while this waited
        rows = writer.rows
        settings, now_s = self._settings, time.time()
        file = writer.write(now_s)
        if file is None:
            return
        self._metrics.rows.labels(topic).inc(rows)
        self._metrics.files.labels(topic).inc()
        self._metrics.bytes.labels(topic).inc(file.size)
        merged = writer.tidy(settings.archive_file_bytes, settings.archive_grace_s, now_s)
        self._metrics.merged.labels(topic).inc(merged)

    def _on_thread(self, call: Callable[[], T]) -> asyncio.Future[T]:
        return asyncio.get_running_loop().run_in_executor(self._thread, call)


async def run(
    settings: Settings,
    plan: Plan,
    sources: Sequence[str] = (),
    *,
    accept_loss: bool = False,
    instance_id: str | None = None,
) -> None:
    """Archive sources (all whose archive is a directory if none is named) until SIGTERM or SIGINT.

    Raises what stopped it: ConfigurationError, UnavailableError or IntegrityError.
    """
    targets = await asyncio.to_thread(archive_targets, settings, plan, sources)
    metrics = ArchiveMetrics()
    port = serve_metrics(metrics.registry, settings.metrics_port)
    worker = ArchiveWorker(
        settings, plan.project, targets, metrics, accept_loss=accept_loss, instance_id=instance_id
    )
    await worker.start()
    archives = {target.source.name: target.source.archive_path for target in targets}
    log.info("archive_worker_started", archives=archives, metrics_port=port)
    await serve(worker.app)
    log.info("archive_worker_stopped")
