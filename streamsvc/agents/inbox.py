"""Deliveries that wait for the engine, by topic, within bounds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable

from streamsvc.transport.chunks import Delivery

__all__ = ["LATE_TURN_ROWS", "Inbox"]

MAX_WAITING_ROWS = 32_768
"""Records of one topic that wait for the engine; beyond it nothing more of it is taken in."""
MAX_TURN_ROWS = 32_768
"""Records of one topic that a turn takes, unless a single chunk has more: it bounds how long rows
that are ready wait for the engine."""
LATE_TURN_ROWS = 4_096
"""As much of a topic does a turn take for views that are being rebuilt: those that are not may not
wait for them."""


class Inbox:
    """Belongs to the event loop; `arrived` is called whenever something came in."""

    def __init__(
        self,
        topics: Iterable[str],
        arrived: Callable[[], None],
        turn_rows: int = MAX_TURN_ROWS,
    ) -> None:
        self._waiting: dict[str, deque[Delivery]] = {}
        self._rows: dict[str, int] = {}
        self._room: dict[str, asyncio.Event] = {}
        self.add(topics)
        self._arrived = arrived
        self._turn_rows = turn_rows
        self.received = 0
        """Deliveries so far."""

    def add(self, topics: Iterable[str]) -> None:
        """Take these topics in, too."""
        for topic in topics:
            if topic not in self._waiting:
                self._waiting[topic] = deque()
                self._rows[topic] = 0
                self._room[topic] = asyncio.Event()

    async def put(self, delivery: Delivery) -> None:
        """Take a delivery in; waits while too much of its topic does."""
        topic, rows = delivery.chunk.topic, len(delivery.chunk)
        while self._rows[topic] and self._rows[topic] + rows > MAX_WAITING_ROWS:
            self._room[topic].clear()
            await self._room[topic].wait()
        self._waiting[topic].append(delivery)
        self._rows[topic] += rows
        self.received += 1
        self._arrived()

    def take(self, open_: Callable[[str], bool]) -> list[Delivery]:
        """What a turn takes of the topics that are open, in log order within each."""
        taken: list[Delivery] = []
        for topic, waiting in self._waiting.items():
            if waiting and open_(topic):
                rows = 0
                while waiting and (not rows or rows + len(waiting[0].chunk) <= self._turn_rows):
                    delivery = waiting.popleft()
                    rows += len(delivery.chunk)
                    taken.append(delivery)
                self._rows[topic] -= rows
                self._room[topic].set()
        return taken

    def holds(self, open_: Callable[[str], bool]) -> bool:
        """Whether a turn would take anything."""
        return any(waiting and open_(topic) for topic, waiting in self._waiting.items())
