"""Reads for views that are behind what the consumer group delivers: new ones, and rebuilt ones.

What they lack is read beside the group, by a consumer without one, so that nobody else waits. It
reads on at the end of the log until every view has reached what the group delivers; from there on
they ride with the others, and this reader ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeAlias

from streamsvc.agents.holdings import Holdings, Partition
from streamsvc.agents.inbox import LATE_TURN_ROWS, Inbox
from streamsvc.settings import Settings
from streamsvc.transport.chunks import Delivery
from streamsvc.transport.ledger import Slot
from streamsvc.transport.reader import RecordsDeletedError, follow

__all__ = ["CatchUp"]

Late: TypeAlias = tuple[int, dict[Partition, int]]


class CatchUp:
    """One reader for each topic that something is behind on. Belongs to the event loop."""

    def __init__(
        self,
        settings: Settings,
        holdings: Holdings,
        inbox: Inbox,
        on_engine: Callable[[Callable[[], Late]], Awaitable[Late]],
        deleted: Callable[[str], Awaitable[None]],
        failed: Callable[[BaseException], None],
    ) -> None:
        """`deleted` is told of a topic that has lost records which are behind, and sees to it that
        nobody asks for them any more. `failed` is told of an error of a reader: going on would
        leave a view behind for ever."""
        self._settings = settings
        self._holdings = holdings
        self._inbox = inbox
        self._on_engine = on_engine
        self._deleted = deleted
        self._failed = failed
        self._readers: dict[str, asyncio.Task[None]] = {}

    async def look(self) -> None:
        """Start readers for what is behind and nobody reads. After every change of the holdings."""
        for topic in {topic for topic, _ in (await self._late())[1]}:
            if topic not in self._readers:
                task = asyncio.create_task(self._read(topic))
                self._readers[topic] = task
                task.add_done_callback(partial(self._ended, topic))

    async def stop(self) -> None:
        """End all readers."""
        readers = list(self._readers.values())
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    async def _read(self, topic: str) -> None:
        self._inbox.add([topic])
        while True:
            version, starts = await self._late(topic)
            if not starts:
                # Nothing is awaited from here to the end: whoever looks next starts a new reader.
                del self._readers[topic]
                return
            wanted = {partition: offset for (_, partition), offset in starts.items()}
            try:
                await self._hand_on(topic, version, wanted)
            except RecordsDeletedError:
                await self._deleted(topic)

    async def _hand_on(self, topic: str, version: int, wanted: dict[int, int]) -> None:
        """Hand on what follows these positions, until nothing is behind or something else is."""
        async for chunk in follow(self._settings, topic, wanted, LATE_TURN_ROWS):
            if chunk is not None:
                # Acknowledged by nobody: its position is in the state.
                slot = Slot(chunk.next_offset)
                await self._inbox.put(Delivery(chunk, slot.ack, slot))
            now, left = await self._late(topic)
            if now != version:
                return  # something else may be behind, at other positions
            for partition in [p for p in wanted if (topic, p) not in left]:
                del wanted[partition]

    async def _late(self, topic: str | None = None) -> Late:
        def look() -> Late:
            late = self._holdings.late()
            return self._holdings.version, {
                at: offset for at, offset in late.items() if topic in (None, at[0])
            }

        return await self._on_engine(look)

    def _ended(self, topic: str, task: asyncio.Task[None]) -> None:
        if self._readers.get(topic) is task:
            del self._readers[topic]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)
