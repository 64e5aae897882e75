"""Faust on Kafka in chunks: the transport behind `streamsvc://`.

Chunk topics and ordinary topics may live in one app. What differs from Faust's own aiokafka
transport, and why:

- Records that were fetched are never dropped on the floor. Stock Faust forgets a fetch that
  arrives while a rebalance has stopped the flow, and seeks back only where an offset above 0 was
  committed. Here such a fetch waits, and counts only if no seek came after it (`Fetch.epoch`).
- Every assignment ends in an explicit seek of every partition, so that the first offset is known
  and the ledger can insist that nothing is missing.
- Acknowledgements of chunks live in the ledger, never in Faust's list of bare offsets.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, TypeAlias

import structlog
from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as stock
from faust.types import TP

from streamsvc.errors import ConfigurationError
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.chunks import ChunkMessage, ChunkSchema
from streamsvc.transport.columnar_fetch import Columnar, install
from streamsvc.transport.consumer_thread import ConsumerThread, Fetch, fetches_no_more
from streamsvc.transport.fetch_decoding import MAX_RECORDS, chunk_of_records
from streamsvc.transport.ledger import Ledger, Slot
from streamsvc.transport.transactions import Commits

__all__ = ["Consumer", "ResumeHook", "Transport"]

log = structlog.get_logger(__name__)

ResumeHook: TypeAlias = Callable[[frozenset[TP]], Awaitable[Mapping[TP, int]]]


class Consumer(stock.Consumer):
    """Delivers chunks for chunk topics and messages for all others."""

    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ledger = Ledger()
        self._epoch = -1
        self._term = 0
        self._fetched_at = 0.0
        self._resume: tuple[int, Mapping[TP, int]] | None = None
        self._seeking = asyncio.Lock()
        self._committing = asyncio.Lock()
        self._active_changed = asyncio.Event()
        super().__init__(*args, **kwargs)
        self.columnar = Columnar(frozenset(), self.transport.max_chunk_records)
        if self.transport.columnar:
            install()
        self.app.on_rebalance_complete.connect(self._on_rebalance_complete)

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_stop(self) -> None:
        """Commits what is done, unless a crash has stopped the thread that would do it."""
        if not self.crashed and not self._thread.should_stop:
            await super().on_stop()

    async def wait_closed(self) -> None:
        """Waits until the consumer's thread has left the group, which a crash does not do."""
        if self._thread._started.is_set():
            await self._thread._shutdown.wait()

    # --- which topics are chunked ----------------------------------------------------------

    async def subscribe(self, topics: Iterable[str]) -> None:
        """Notes which topics are chunked before any of them can be fetched."""
        chunked: set[str] = set()
        plain: set[str] = set()
        for channel in self.app.topics:
            names = chunked if isinstance(channel.schema, ChunkSchema) else plain
            names.update(channel.topics)
        if both := chunked & plain:
            raise ConfigurationError(
                f"Topics {sorted(both)} are declared both with chunk_topic() and with app.topic(); "
                "an app can read a topic one way only"
            )
        self.columnar.topics = frozenset(chunked)
        await super().subscribe(topics)

    def _chunked(self, tp: TP) -> bool:
        return self.columnar.covers(tp.topic)

    # --- fetching ---------------------------------------------------------------------------

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Any]]:
        """One fetch as messages. What a seek has overtaken is left out; nothing else is."""
        await self._paced()
        fetch, _ = await self._wait_next_records(timeout)
        if fetch is None or self.should_stop:
            return
        if fetch:
            self._fetched_at = self.loop.time()
        async with self._seeking:  # a seek that is under way settles what the epoch is
            pass
        for tp, record in self.scheduler.iterate(fetch):
            if not self.flow_active:
                await self.wait(self.can_resume_flow)
            if self.should_stop or fetch.epoch != self._epoch:
                return
            if not self._chunked(tp):
                yield tp, self._to_message(tp, record)
                continue
            slot = self.ledger.deliver(
                tp, record.first_offset, record.next_offset, blank=not len(record)
            )
            if len(record):
                message = self._chunk_message(ensure_TP(tp), record, slot)
                if not self._handed_over(message):
                    yield tp, message
            else:
                slot.ack()  # transaction markers, aborted or compacted records only

    def _handed_over(self, message: ChunkMessage) -> bool:
        """Put a chunk into its agents' queues at once, if they have room.

        What Faust's conductor does with a message, without two tasks and a wait for each: those
        are for queues that are full, and then it is left to them (False).
        """
        handler = self.app.topics._tp_to_callback.get(message.tp)
        channels = getattr(handler, "channels", None)  # of Faust's compiled handler only
        if not channels or not self.app.flow_control.is_active():
            return False
        queues = [channel.queue for channel in channels]
        if any(queue.full() for queue in queues):
            return False
        message.incref(len(queues))
        event = self.app.create_event(None, message.value, None, message)
        for queue in queues:
            queue.put_nowait_enhanced(
                value=event,
                on_pressure_high=handler.on_pressure_high,
                on_pressure_drop=handler.on_pressure_drop,
            )
        self._read_offset[message.tp] = message.offset
        return True

    async def _drain_messages(self, fetcher: Any) -> None:
        """As Faust's, whose app would go on without it if it was cancelled from within."""
        try:
            await super()._drain_messages(fetcher)
        except asyncio.CancelledError:
            if not (self.should_stop or fetcher.should_stop or self.app.should_stop):
                await self.app.crash(fetches_no_more("Faust's fetcher was cancelled"))
            raise

    async def sleep(self, n: float) -> None:
        """As Faust's, which also takes a timer and two tasks where its loop only lets others run,
        before each fetch."""
        await (super().sleep(n) if n else asyncio.sleep(0))

    async def _paced(self) -> None:
        """Leave a few milliseconds between fetches that bring something.

        Each costs as much as a thousand records do, and when records trickle in, fetching as fast
        as can be keeps a processor busy with single ones.
        """
        pause_s = self._fetched_at + self.transport.fetch_spacing_s - self.loop.time()
        if pause_s > 0:
            await asyncio.sleep(pause_s)
        gate: asyncio.Event | None = getattr(self.app, "fetch_gate", None)
        if gate is not None:
            await gate.wait()  # cancelled when the consumer stops

    def _chunk_message(self, tp: TP, chunk: Chunk, slot: Slot) -> ChunkMessage:
        generation = self.app.consumer_generation_id
        chunk.generation = generation
        return ChunkMessage(
            slot,
            tp.topic,
            tp.partition,
            chunk.next_offset - 1,
            int(chunk.timestamps[-1]) / 1000.0,
            0,
            None,
            None,
            chunk,
            None,
            0,
            0,
            tp,
            generation_id=generation,
        )

    async def _getmany(self, active_partitions: Any, timeout: float) -> Fetch:
        fetch: Fetch = await super()._getmany(active_partitions, timeout)
        if not self.transport.columnar:
            for tp, records in fetch.items():
                if records and self._chunked(tp):
                    fetch[tp] = [self._public_chunk(tp, records)]
        return fetch

    def _public_chunk(self, tp: TP, records: list[Any]) -> Chunk:
        """Without the columnar fetcher nobody tells where a hole ends: the next record does."""
        expected = self.ledger.expected(tp)
        first = records[0].offset
        if expected is not None:
            first = min(first, expected)
        after = records[-1].offset + 1
        return chunk_of_records(tp.topic, tp.partition, records, first, after)

    def told_until_ms(self, tp: TP, now_ms: int, skew_ms: int) -> int:
        """The instant up to which the broker has told us of all that it held (any thread)."""
        return self._thread.told_until_ms(tp, now_ms, skew_ms)

    async def _wait_next_records(self, timeout: float) -> tuple[Fetch | None, Any]:
        if self.flow_active and not self._get_active_partitions():
            # Every buffer is full. Stock Faust sleeps a whole second here.
            self._active_changed.clear()
            waits = asyncio.wait_for(self._active_changed.wait(), timeout)
            try:
                await waits
            except TimeoutError:
                return None, None
        records, active = await super()._wait_next_records(timeout)
        return (records if isinstance(records, Fetch) else None), active

    def on_buffer_drop(self, tp: TP) -> None:
        """The buffer of a partition has room again: take it up at once, not after a timeout."""
        buffered = tp in self._buffered_partitions
        super().on_buffer_drop(tp)
        if buffered:
            self._active_changed.set()
            self._thread.wake()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """As `on_buffer_drop`, for partitions that were paused."""
        super().resume_partitions(tps)
        self._active_changed.set()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        if not self._chunked(tp):
            await super()._add_gap(tp, offset_from, offset_to)

    async def verify_all_partitions_active(self) -> None:
        """Faust's watchdog only logs, knows nothing of chunks, and fails on a slow connection."""

    # --- acknowledging and committing -------------------------------------------------------

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for tp in super()._filter_tps_with_pending_acks(topics):
            if not self._chunked(tp):
                yield tp
        for tp in self.ledger.partitions():
            if topics is None or tp in topics or tp[0] in topics:
                yield TP(*tp)

    def _new_offset(self, tp: TP) -> int | None:
        if not self._chunked(tp):
            return super()._new_offset(tp)
        # Faust's compiled streams note acknowledged offsets here as well; not ours to use.
        self._acked.pop(tp, None)
        self._acked_index.pop(tp, None)
        return self.ledger.committable(tp)

    async def commit(self, topics: Any = None, start_new_transaction: bool = True) -> bool:
        """As stock Faust's; with an outbox, in one transaction with all that is in it."""
        outbox = self.app.outbox
        if outbox is None:
            did: bool = await super().commit(topics, start_new_transaction)
            return did
        done: dict[TP, int] = {}

        def commits() -> Commits:
            tps = self._filter_tps_with_pending_acks()
            done.update(self._filter_committable_offsets(tps))
            marks = self.app.topic_marks
            return {tp: (at, marks.get(tp.topic, "")) for tp, at in done.items()}

        async with self._committing:
            did = await outbox.commit(commits)
            if did:
                self._committed_offset.update(done)
        return did

    def rejoin(self) -> None:
        """Have the group assign partitions anew."""
        self._thread.rejoin()

    # --- rebalance ----------------------------------------------------------------------------

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Commits what is done, and voids what is in flight. Aiokafka always revokes everything."""
        self._term += 1
        await super().on_partitions_revoked(revoked)
        if not self.should_stop:
            await self.commit()
        self.ledger.drop()
        if self.app.outbox is not None:
            self.app.outbox.end_term()
        self._buffered_partitions.clear()
        self._resume = None
        self._epoch = -1

    async def _on_rebalance_complete(self, *args: Any, **kwargs: Any) -> None:
        if self.app.outbox is not None:
            self.app.outbox.begin_term(self._thread.member)
        hook: ResumeHook | None = getattr(self.app, "resume_from", None)
        if hook is None:
            return
        generation = self.app.consumer_generation_id
        tps = frozenset(tp for tp in self.assignment() if self._chunked(tp))
        try:
            offsets = await hook(tps)
        except Exception as error:
            log.error("resume_failed", error=str(error))
            await self.app.crash(error)
            raise
        if generation == self.app.consumer_generation_id:
            self._resume = (generation, {ensure_TP(tp): at for tp, at in offsets.items()})

    async def perform_seek(self) -> None:
        """Seeks every assigned partition: to where the resume hook said, else the group's offset.

        Without either, to the start (or end, by `consumer_auto_offset_reset`) as a number, so that
        the first chunk's offset can be checked too. Nothing is fetched from an assignment that ends
        meanwhile.
        """
        async with self._seeking, self._committing:
            if self.app.outbox is not None:
                self.app.outbox.drop()
            tps, term = self.assignment(), self._term
            asked, known = await self._thread.positions(tps)
            positions = {tp: at for tp, (at, _) in known.items()}
            if self._resume is not None and self._resume[0] == self.app.consumer_generation_id:
                positions.update({tp: at for tp, at in self._resume[1].items() if tp in tps})
            epoch = await self._thread.seek_all(positions, asked)
            if epoch is None or term != self._term:
                return  # the group has moved on: whatever is assigned next is sought anew
            self._note_positions(positions, known)
            self._epoch = epoch

    def _note_positions(
        self, positions: Mapping[TP, int], known: Mapping[TP, tuple[int, int | None]]
    ) -> None:
        self.ledger.start({tp: at for tp, at in positions.items() if self._chunked(tp)})
        for tp, at in positions.items():
            committed = known[tp][1]
            self._read_offset[tp] = at or None
            self._committed_offset[tp] = committed or None
            self._acked.pop(tp, None)
            self._acked_index.pop(tp, None)


class Transport(stock.Transport):
    """Faust's aiokafka transport with chunks. Attributes are settings of a subclass."""

    Consumer: ClassVar[type[Consumer]] = Consumer
    driver_version = stock.Transport.driver_version + " (chunked)"

    columnar: ClassVar[bool] = True
    """Whether chunks come from the columnar fetcher, or from public ConsumerRecords (slower)."""
    max_chunk_records: ClassVar[int] = MAX_RECORDS
    """Most records in a chunk."""
    fetch_max_wait_ms: ClassVar[int] = 100
    """Milliseconds that the broker may hold an empty fetch. It also bounds how long a partition
    that was left out of that fetch has to wait for the next one."""
    fetch_spacing_s: ClassVar[float] = 0.003
    """Least seconds between two fetches that bring records."""
    fetch_min_bytes: ClassVar[int] = 1
    """Bytes that the broker waits for; 1 answers as soon as there is anything."""
    isolation_level: ClassVar[str] = "read_committed"
    """Records of aborted transactions never reach an agent."""
