"""The Faust app that every worker is built on, and how it is run.

app = create_app(settings, "my-group")
topic = chunk_topic(app, "payments")

@app.agent(topic)
async def work(stream): ...

run(serve(app))
"""

from __future__ import annotations

import asyncio
import faulthandler
import signal
import sys
from collections.abc import Coroutine, Mapping
from typing import Any

import faust
import structlog
from faust.tables import TableManager
from faust.types import TP

from streamsvc.errors import StreamsvcError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.faust_transport import Transport
from streamsvc.transport.kafka_config import broker_urls, faust_credentials
from streamsvc.transport.kafka_faults import forbidden
from streamsvc.transport.outbox import Outbox
from streamsvc.transport.positioned_consumer import ResumeHook
from streamsvc.transport.process import tune_process

__all__ = ["StreamApp", "create_app", "run", "serve"]

log = structlog.get_logger(__name__)

COMMIT_INTERVAL_S = 0.2  # a worker that is killed repeats at most what it read in this time
METADATA_MAX_AGE_MS = 5_000
MAX_PARTITION_FETCH_BYTES = 4 << 20


class _Tables(TableManager):
    """Faust waits a second here for tables to register themselves; we have none."""

    async def on_start(self) -> None:
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class StreamApp(faust.App):
    """A Faust app on the chunked transport."""

    resume_from: ResumeHook | None = None
    """Awaited after every rebalance, while nothing is fetched and heartbeats go on, with all chunk
    partitions assigned. The offsets that it returns win over those of the consumer group."""

    fetch_gate: asyncio.Event | None = None
    """Nothing more is fetched while it is not set. Set unless somebody clears it."""

    outbox: Outbox | None = None
    """What is committed goes into one transaction with what lies here, if set before the start."""

    topic_marks: Mapping[str, str] = {}
    """Topic -> what is stored with its committed offsets: a group's offsets outlive a topic that is
    made anew if they are committed a moment later."""

    transport_class: type[Transport] = Transport

    user: str | None = None
    """Whom Kafka knows us as."""

    _failing: asyncio.Task[None] | None = None

    def fail(self, error: BaseException) -> None:
        """Stop the worker: what cannot be applied, delivered or answered must not be passed over.

        For its event loop. The first error counts, and of a group its first.
        """
        if self._failing is not None or self.crash_reason is not None:
            return
        if isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        unforeseen = None if isinstance(error, StreamsvcError) else error
        log.error("worker_stops", error=str(error), kind=type(error).__name__, exc_info=unforeseen)
        self._failing = asyncio.get_running_loop().create_task(self.crash(error))

    def watch(self, task: asyncio.Future[None]) -> None:
        """Stop the worker if this task raises."""
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    def done_below(self, offsets: Mapping[TP, int]) -> None:
        """What a worker that keeps positions of its own knows to be done, instead of
        acknowledgements: else a partition that it was handed over, and that gets no more records,
        would show a lag for ever."""
        self.consumer.ledger.done_below(offsets)

    def _new_transport(self) -> Transport:
        # By class rather than by URL, so that it works from a checkout that is not installed.
        return self.transport_class(self.conf.broker_consumer, self)

    def _new_producer_transport(self) -> Transport:
        return self.transport_class(self.conf.broker_producer, self)

    def _create_directories(self) -> None:
        """Nothing of ours is kept in Faust's data directory."""


def create_app(
    settings: Settings,
    app_id: str,
    *,
    instance_id: str | None = None,
    client_id: str | None = None,
    transport: type[Transport] = Transport,
) -> StreamApp:
    """A Faust app whose id is the consumer group `app_id`.

    `instance_id` makes it a static member of the group: a restart within the session timeout moves
    no partition, and a stop hands none over before that. `client_id` is what the group calls this
    process. An agent that raises stops the app: it
    left a chunk undone, and going on would skip it.
    """
    session_s = settings.session_timeout_ms / 1000
    app = StreamApp(
        app_id,
        broker=broker_urls(settings),
        broker_credentials=faust_credentials(settings),
        broker_session_timeout=session_s,
        broker_heartbeat_interval=settings.heartbeat_interval_ms / 1000,
        broker_request_timeout=max(90.0, session_s),
        broker_rebalance_timeout=60.0,
        broker_commit_interval=COMMIT_INTERVAL_S,
        broker_client_id=client_id or f"streamsvc-{app_id}",
        # An empty id would make all workers one static member, each throwing the last one out.
        consumer_group_instance_id=instance_id,
        # How soon partitions that were added to a topic are noticed.
        consumer_metadata_max_age_ms=METADATA_MAX_AGE_MS,
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=MAX_PARTITION_FETCH_BYTES,
        key_serializer="raw",
        value_serializer="raw",
        store="memory://",
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        agent_supervisor="mode.supervisors.CrashingSupervisor",
        # More than 0 selects Faust's own assignor, which is sticky: a worker that joins or leaves
        # moves few partitions, and moving one means restoring its state. We have no tables.
        table_standby_replicas=1,
        TableManager=_Tables,
    )
    app.transport_class = transport
    app.user = settings.kafka_sasl_username
    return app


async def serve(app: Any, stop: asyncio.Event | None = None) -> None:
    """Runs a Faust app until SIGTERM or SIGINT, or until `stop` is set; then stops it cleanly.

    Faust's own worker would take over logging, signals and the exit code. Raises what crashed the
    app: StreamsvcErrors as they are, anything else as UnavailableError.
    """
    tune_process()
    stop = stop or asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    app.loop = loop
    waits = [asyncio.ensure_future(stop.wait()), asyncio.ensure_future(_crashed(app))]
    failed: BaseException | None = None
    try:
        starting = asyncio.ensure_future(app.maybe_start())
        await asyncio.wait([starting, *waits], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            failed = starting.exception()
        if failed is None:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await app.stop()
        if app._consumer is not None:
            await app._consumer.wait_closed()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
    reason = app.crash_reason or failed
    if isinstance(reason, StreamsvcError):
        raise reason
    if reason is not None:
        if (why := forbidden(app.user, reason)) is not None:
            raise why from reason
        raise UnavailableError(f"The worker stopped: {reason!r}") from reason


def run(main: Coroutine[Any, Any, None]) -> None:
    """As `asyncio.run`; compiled code that crashes leaves the stacks of all threads in the log."""
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)
    asyncio.run(main)


async def _crashed(app: Any) -> None:
    await app._crashed.wait()
