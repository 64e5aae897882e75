"""Several batches under way at once, published in the order in which their requests came.

A batch is whatever has come in when there is room for one more: a record or two when it is quiet,
thousands under load. Nothing waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from streamsvc.transport.chunks import Delivery, all_arrived

__all__ = ["Batches"]

T = TypeVar("T")

MAX_BATCH_ROWS = 4_096
"""Requests of one batch, unless a single chunk has more."""
QUIET_INFLIGHT = 2
BUSY_ROWS = 256
"""With fewer requests taken in, only so many batches run at once: more, smaller ones would take the
processor from one another (p99 at 1,000 requests/s on two cores: 127 ms with 3, 195 with 8)."""
MAX_WAITING_ROWS = 32_768
"""Requests that wait for their turn; beyond it nothing more is taken from Kafka."""


class Batches(Generic[T]):
    """Takes deliveries in; scores batches concurrently; publishes in order; then acknowledges.

    `score` answers a batch. `publish` sends an answer and returns what to await until it is safe;
    it is called for one batch at a time, in order. `failed` is called once, with the first error of
    either; nothing is published after it.
    """

    def __init__(
        self,
        score: Callable[[Sequence[Delivery]], Awaitable[T]],
        publish: Callable[[T], Awaitable[Awaitable[None]]],
        failed: Callable[[BaseException], None],
        max_inflight: int,
        max_bytes: int,
    ) -> None:
        """`max_bytes` is what requests may take that were taken in and are not answered yet; what
        a fetch brought at once may exceed it."""
        self._score = score
        self._publish = publish
        self._failed = failed
        self._max_inflight = max_inflight
        self._max_bytes = max_bytes
        self._held_bytes = 0
        self._waiting: deque[Delivery] = deque()
        self._waiting_rows = 0
        self._running_rows = 0
        self._received = 0
        self._starting: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.wanting = asyncio.Event()
        """Set while one more delivery would be scored at once. What is fetched while it is not
        would only wait here, in more pieces than if it had waited at the broker."""
        self.wanting.set()
        self._room = asyncio.Event()
        self._room.set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._last_published = asyncio.Event()
        self._last_published.set()
        self._broken = False

    async def put(self, delivery: Delivery) -> None:
        """Take a delivery in; waits while too many do."""
        await self._room.wait()
        self._waiting.append(delivery)
        self._waiting_rows += len(delivery.chunk)
        self._held_bytes += delivery.chunk.data.nbytes
        self._received += 1
        if not self._broken:
            self._idle.clear()
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_together())

    async def drain(self) -> None:
        """Return when everything that was taken in is acknowledged, or a batch has failed."""
        await self._idle.wait()
        for task in list(self._running):
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _start_together(self) -> None:
        await all_arrived(lambda: self._received)
        self._starting = None
        self._start_batches()

    def _start_batches(self) -> None:
        while self._waiting and len(self._running) < self._limit() and not self._broken:
            batch = self._next()
            if not batch:
                break
            before, published = self._last_published, asyncio.Event()
            self._last_published = published
            rows = sum(len(delivery.chunk) for delivery in batch)
            size = sum(delivery.chunk.data.nbytes for delivery in batch)
            self._running_rows += rows
            task = asyncio.create_task(self._run(batch, before, published))
            self._running.add(task)
            task.add_done_callback(partial(self._ended, rows, size))
        room = self._waiting_rows < MAX_WAITING_ROWS and self._held_bytes < self._max_bytes
        _set(self._room, self._broken or room)
        _set(self.wanting, self._broken or (room and len(self._running) < self._limit()))
        _set(self._idle, self._broken or not (self._waiting or self._running))

    def _limit(self) -> int:
        busy = self._waiting_rows + self._running_rows >= BUSY_ROWS
        return self._max_inflight if busy else min(QUIET_INFLIGHT, self._max_inflight)

    def _next(self) -> list[Delivery]:
        """The next deliveries, but for those that are somebody else's to answer by now."""
        batch: list[Delivery] = []
        rows = 0
        while self._waiting:
            more = len(self._waiting[0].chunk)
            if batch and rows + more > MAX_BATCH_ROWS:
                break
            delivery = self._waiting.popleft()
            self._waiting_rows -= more
            if delivery.live:
                rows += more
                batch.append(delivery)
            else:
                self._held_bytes -= delivery.chunk.data.nbytes
        return batch

    async def _run(
        self, batch: list[Delivery], before: asyncio.Event, published: asyncio.Event
    ) -> None:
        answer = await self._score(batch)
        await before.wait()
        safe = await self._publish(answer)
        published.set()
        await safe
        for delivery in batch:
            delivery.ack()

    def _ended(self, rows: int, size: int, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._running_rows -= rows
        self._held_bytes -= size
        if not task.cancelled() and (error := task.exception()) is not None and not self._broken:
            self._broken = True
            self._failed(error)
        self._start_batches()


def _set(event: asyncio.Event, holds: bool) -> None:
    if holds:
        event.set()
    else:
        event.clear()
