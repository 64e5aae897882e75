"""Sends refused records to `<topic>.dead`, and knows when they have arrived there.

Records are offered on the engine thread, in the same step that judges them, and sent from the event
loop. A commit that covers a refused record waits for `flush`, so a crash can repeat a dead letter
but never lose one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol

from prometheus_client import Counter

from streamsvc.events.dead_letters import DeadLetter, dead_letters
from streamsvc.events.wire import Reject
from streamsvc.state.topics import InternalTopics
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.producer import BatchProducer

__all__ = ["DeadLetterSender"]


class DeadLetterMetrics(Protocol):
    """What counts dead letters, by topic and reason."""

    @property
    def dead_letters(self) -> Counter:
        """The count."""


class DeadLetterSender:
    """One per worker."""

    def __init__(
        self,
        partitions: Mapping[str, int],
        topics: InternalTopics,
        producer: BatchProducer,
        metrics: DeadLetterMetrics,
    ) -> None:
        """`partitions` of the dead letters of each event topic."""
        self.partitions = dict(partitions)
        self._topics = topics
        self._producer = producer
        self._metrics = metrics
        self._offered: deque[tuple[str, int, list[DeadLetter]]] = deque()
        self._under_way: list[Awaitable[int | None]] = []

    def offer(self, chunk: Chunk, rejects: Sequence[Reject]) -> None:
        """Take the refused records of a chunk. Any thread; nothing is sent yet.

        A record that several views refuse is one dead letter, with the first reason.
        """
        first = {reject.row: reject for reject in reversed(rejects)}
        unique = [first[row] for row in sorted(first)]
        letters = dead_letters(chunk, unique)
        partition = chunk.partition % self.partitions[chunk.topic]
        self._offered.append((chunk.topic, partition, letters))
        for reject in unique:
            self._metrics.dead_letters.labels(chunk.topic, reject.reason).inc()

    async def flush(self) -> None:
        """Send what was offered so far and wait until all of it is acknowledged."""
        while self._offered:
            topic, partition, letters = self._offered.popleft()
            records = [(x.key, x.value, _headers(x)) for x in letters]
            dead = self._topics.dead(topic)
            self._under_way.append(await self._producer.send(dead, partition, records))
        under_way, self._under_way = self._under_way, []
        await asyncio.gather(*under_way)


def _headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    # The producer cannot write a null header value; an empty one is the nearest there is.
    return [(name, value or b"") for name, value in letter.headers]
