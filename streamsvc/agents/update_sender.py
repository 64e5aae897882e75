"""Sends the rows of views with a topic of updates there, and knows when they have arrived.

Flushes are offered in the order in which they are cut, and sent in it, however long each takes to
be written. A commit waits for `flush`: after a crash its rows are made, and told, once more.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from concurrent.futures import Future

from streamsvc.agents.packing import Prepared
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.store.updates import update_records
from streamsvc.transport.producer import BatchProducer, Send
from streamsvc.transport.records import Records

__all__ = ["UpdateSender"]


class UpdateSender:
    """One per worker. `records` and `offer` are for the threads that write, `send` and `flush` for
    the event loop."""

    def __init__(
        self, partitions: Mapping[str, int], producer: BatchProducer, metrics: FeatureMetrics
    ) -> None:
        """`partitions` of each topic of updates."""
        self.partitions = dict(partitions)
        self._producer = producer
        self._metrics = metrics
        self._offered: deque[Future[list[Send]]] = deque()
        self._sending = asyncio.Lock()
        self._under_way: list[Awaitable[int | None]] = []

    @property
    def behind(self) -> bool:
        """Whether something that was offered is not on its way yet (any thread)."""
        return bool(self._offered)

    def records(self, prepared: Iterable[Prepared]) -> list[Send]:
        """What is to be sent of rows that were written. Any thread; takes a us a row."""
        sends: list[Send] = []
        for each in prepared:
            view, layout = each.running.view, each.running.layout
            if view.updates is None:
                continue
            # A state partition keeps to one partition: an entity stays in order.
            topic = view.updates.topic
            partition = each.cut.partition % self.partitions[topic]
            for keys, rows, event in each.updates(each_event=view.updates.each_event):
                columns = update_records(view.name, view.join_keys, layout, keys, rows, event)
                sends.append((topic, partition, Records(*columns)))
                self._metrics.updates.labels(view.name).inc(len(rows))
        return sends

    def offer(self, written: Future[list[Send]]) -> None:
        """Take what is to be sent once it is known. Any thread, in the order of the cuts."""
        self._offered.append(written)

    async def send(self) -> None:
        """Hand over to the producer what is known by now; waits while too much is under way."""
        async with self._sending:
            while self._offered and self._offered[0].done():
                for topic, partition, records in self._offered[0].result():
                    ack = await self._producer.send(topic, partition, records)
                    self._under_way.append(ack)
                self._offered.popleft()

    async def flush(self) -> None:
        """Wait until everything that was handed over is acknowledged."""
        under_way, self._under_way = self._under_way, []
        await asyncio.gather(*under_way)
