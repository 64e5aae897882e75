"""Producing whole batches, in order, and never past a failure.

Per partition one batch is on its way at a time, and what is sent meanwhile is gathered for the
next: under load batches grow by themselves. It also makes a promise that a deeper pipeline cannot:
once a delivery has failed, nothing that was sent to that partition later has been delivered.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.producer.message_accumulator import BatchBuilder

from streamsvc.errors import IntegrityError, UnavailableError
from streamsvc.settings import Settings
from streamsvc.transport.batch_builder import Encoded, RecordBatch
from streamsvc.transport.kafka_config import aiokafka_config
from streamsvc.transport.kafka_faults import forbidden, unanswered
from streamsvc.transport.records import Record, Records

__all__ = ["PENDING_BYTES", "REQUEST_BYTES", "BatchProducer", "Send", "size_of"]

Send: TypeAlias = tuple[str, int, Records | Sequence[Record]]
"""Topic, partition, records in order."""

BATCH_BYTES = 900_000  # below the 1 MiB that a topic accepts unless told otherwise
REQUEST_BYTES = 12 << 20  # one record may be a whole columnar chunk
PENDING_BYTES = 64 << 20


def size_of(records: Records | Sequence[Record]) -> int:
    """About the bytes that records take."""
    if isinstance(records, Records):
        return records.nbytes
    return sum(len(k or b"") + len(v or b"") + 32 for k, v, _ in records)


class _Objects:
    """One call of `send`, and which of its records are still to go: aiokafka takes each."""

    def __init__(self, records: Sequence[Record], future: asyncio.Future[int | None]) -> None:
        self.records = records
        self.future = future
        self.next = 0
        self.size = size_of(records)

    def batch(self, producer: Any, _waiting: int) -> BatchBuilder:
        """A batch that begins with the next record."""
        return producer.create_batch()

    def add_to(self, batch: Any) -> None:
        """Add what there is room for."""
        while self.next < len(self.records):
            key, value, headers = self.records[self.next]
            if batch.append(key=key, value=value, timestamp=None, headers=list(headers)) is None:
                break
            self.next += 1


class _Columns:
    """The same of records that are columns: a kernel takes them all at once."""

    def __init__(self, records: Records, future: asyncio.Future[int | None]) -> None:
        self.records = Encoded(records)
        self.future = future
        self.next = 0
        self.size = self.records.nbytes

    def batch(self, _producer: Any, waiting: int) -> BatchBuilder:
        """A batch that begins with the next record; `waiting` bytes are to go in all."""
        room = max(int(self.records.sizes[self.next]), min(BATCH_BYTES, waiting))
        return RecordBatch(room, timestamp_ms=time.time_ns() // 1_000_000)

    def add_to(self, batch: Any) -> None:
        """Add what there is room for."""
        self.next += batch.add(self.records, self.next)


_Send: TypeAlias = _Objects | _Columns


class BatchProducer:
    """An idempotent producer of batches (`acks=all`).

    `on_failure` is called once, with the error, when a delivery fails for good. From then on every
    send to that partition raises IntegrityError.
    """

    def __init__(
        self, settings: Settings, on_failure: Callable[[Exception], None] | None = None
    ) -> None:
        self._settings = settings
        self._on_failure = on_failure
        self._producer: Any = None
        self._lanes: dict[tuple[str, int], deque[_Send]] = {}
        self._tasks: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._failed: dict[tuple[str, int], Exception] = {}
        self._pending = 0
        self._room = asyncio.Condition()

    async def start(self) -> None:
        """Connects. Raises UnavailableError if no broker answers, ConfigurationError if none lets
        us in."""
        producer = AIOKafkaProducer(
            **aiokafka_config(self._settings),
            acks="all",
            enable_idempotence=True,
            max_batch_size=BATCH_BYTES,
            max_request_size=REQUEST_BYTES,
        )
        try:
            await producer.start()
        except KafkaError as error:
            await producer.stop()
            why = forbidden(self._settings.kafka_sasl_username, error)
            if why is not None:
                raise why from error
            raise await asyncio.to_thread(unanswered, self._settings, error) from error
        self._producer = producer

    async def stop(self) -> None:
        """Waits for everything that was sent, then disconnects."""
        if self._producer is None:
            return
        await asyncio.gather(*self._tasks.values())
        await self._producer.stop()
        self._producer = None

    async def send(
        self, topic: str, partition: int, records: Records | Sequence[Record]
    ) -> Awaitable[int | None]:
        """Queues records; returns a future of the last one's offset, done when all are replicated.

        Records of one partition arrive in the order of the calls. Waits while too much is under
        way. Raises IntegrityError if a delivery to this partition has failed; so does the future.
        """
        lane = (topic, partition)
        async with self._room:
            await self._room.wait_for(lambda: self._pending < PENDING_BYTES)
        if error := self._failed.get(lane):
            raise IntegrityError(
                f"A delivery to {topic}/{partition} failed ({error}); nothing may follow it. "
                "Restart the worker."
            ) from error
        if self._producer is None:
            raise UnavailableError("The producer is not running")
        future: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        if not records:
            future.set_result(None)
            return future
        send: _Send = (
            _Columns(records, future) if isinstance(records, Records) else _Objects(records, future)
        )
        self._pending += send.size
        self._lanes.setdefault(lane, deque()).append(send)
        if lane not in self._tasks:
            task = asyncio.create_task(self._run(lane))
            self._tasks[lane] = task
        return future

    async def _run(self, lane: tuple[str, int]) -> None:
        """Sends what waits for one partition, batch after batch, until nothing does."""
        queue = self._lanes[lane]
        try:
            while queue:
                await self._send_batch(lane, queue)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is fatal to the partition
            self._fail(lane, queue, error)
        finally:
            del self._tasks[lane]
            async with self._room:
                self._room.notify_all()

    async def _send_batch(self, lane: tuple[str, int], queue: deque[_Send]) -> None:
        complete: list[tuple[_Send, int]] = []  # and the position of its last record in the batch
        batch = queue[0].batch(self._producer, sum(send.size for send in queue))
        for send in queue:
            if type(send) is not type(queue[0]):
                break
            send.add_to(batch)
            if send.next < len(send.records):
                break
            complete.append((send, batch.record_count() - 1))
        batch.close()
        topic, partition = lane
        if partition not in await self._producer.partitions_for(topic):
            # Added since the last look at the cluster, or not there at all: then this raises.
            await self._producer.client.force_metadata_update()
        sent = await self._producer.send_batch(batch, topic, partition=partition)
        metadata = await sent
        for send, at in complete:
            queue.popleft()
            self._pending -= send.size
            if not send.future.done():
                send.future.set_result(metadata.offset + at)
        if complete:
            async with self._room:
                self._room.notify_all()

    def _fail(self, lane: tuple[str, int], queue: deque[_Send], error: Exception) -> None:
        error = forbidden(self._settings.kafka_sasl_username, error) or error
        self._failed[lane] = error
        topic, partition = lane
        for send in queue:
            self._pending -= send.size
            if not send.future.done():
                send.future.set_exception(
                    IntegrityError(f"Delivery to {topic}/{partition} failed: {error}")
                )
                send.future.exception()  # retrieved: a caller that does not wait is told below
        queue.clear()
        if self._on_failure is not None:
            self._on_failure(error)
