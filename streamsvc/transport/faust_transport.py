"""Faust on Kafka in chunks: the transport behind `streamsvc://`.

Chunk topics and ordinary topics may live in one app. What differs from Faust's own aiokafka
transport, and why:

- Records that were fetched are never dropped on the floor. Stock Faust forgets a fetch that
  arrives while a rebalance has stopped the flow, and seeks back only where an offset above 0 was
  committed. Here such a fetch waits, and counts only if no seek came after it (`Fetch.epoch`).
- Where partitions begin and what is committed is settled in `positioned_consumer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any, ClassVar

from faust.transport.consumer import ensure_TP
from faust.transport.drivers import aiokafka as stock
from faust.types import TP

from streamsvc.transport.chunk import Chunk
from streamsvc.transport.chunks import ChunkMessage
from streamsvc.transport.consumer_thread import Fetch, fetches_no_more
from streamsvc.transport.fetch_decoding import MAX_RECORDS, chunk_of_records
from streamsvc.transport.ledger import Slot
from streamsvc.transport.positioned_consumer import PositionedConsumer

__all__ = ["Consumer", "Transport"]


class Consumer(PositionedConsumer):
    """Delivers chunks for chunk topics and messages for all others."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._fetched_at = 0.0
        self._active_changed = asyncio.Event()
        super().__init__(*args, **kwargs)

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
