"""The topics that a Faust app reads into an inbox, a Faust agent for each. They may change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamsvc.agents.inbox import Inbox
from streamsvc.transport.chunks import chunk_topic, chunks

__all__ = ["Subscription"]


class Subscription:
    """Hands the chunks of its topics on, in the order of each partition."""

    def __init__(self, app: Any, inbox: Inbox) -> None:
        self._app = app
        self._inbox = inbox
        self._agents: dict[str, Any] = {}

    def begin(self, topics: Sequence[str]) -> None:
        """Read these topics as soon as the app runs."""
        for topic in topics:
            self._add(topic)

    async def change(self, topics: Sequence[str]) -> None:
        """Read exactly these topics. Others than before make the group rebalance."""
        app = self._app
        for topic in [topic for topic in self._agents if topic not in topics]:
            agent = self._agents.pop(topic)
            await agent.stop()
            del app.agents[agent.name]
            for channel in [c for c in app.topics if topic in c.topics]:
                app.topics.discard(channel)
        added = [topic for topic in topics if topic not in self._agents]
        # Faust waits for more topics to come; ours are complete. While the app starts, a
        # second subscription would overtake the first one's rebalance.
        app.topics._resubscribe_sleep_lock_seconds = 0.0
        for topic in added:
            self._add(topic)
            await self._agents[topic].maybe_start()
        if added:
            app.agents.update_topic_index()

    def _add(self, topic: str) -> None:
        self._inbox.add([topic])

        async def consume(stream: Any) -> None:
            async for delivery in chunks(stream):
                await self._inbox.put(delivery)

        channel = chunk_topic(self._app, topic)
        self._agents[topic] = self._app.agent(channel, name=f"chunks:{topic}")(consume)
