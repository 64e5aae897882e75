"""How answers go out: at least once, or exactly once with the offsets of their requests."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from streamsvc.settings import Settings
from streamsvc.transport.chunks import Delivery
from streamsvc.transport.outbox import Outbox
from streamsvc.transport.producer import BatchProducer, Send

__all__ = ["AtLeastOnce", "DeliveryMode", "ExactlyOnce"]


class DeliveryMode(Protocol):
    """What a scoring worker hands its answers to, a batch at a time, in order."""

    async def start(self) -> None:
        """Connect. Raises UnavailableError or ConfigurationError."""

    async def put(
        self, batch: Sequence[Delivery], sends: Sequence[Send], done: Callable[[], None]
    ) -> Awaitable[None]:
        """Send answers. What it returns is to be awaited before the batch is acknowledged.

        `done` is called when the answers count.
        """

    async def stop(self) -> None:
        """Return when all that was sent counts, and disconnect."""


class AtLeastOnce:
    """Readers see an answer at once, and after a crash perhaps again, under the same id."""

    def __init__(self, settings: Settings, failed: Callable[[BaseException], None]) -> None:
        self._producer = BatchProducer(settings, on_failure=failed)
        self.start = self._producer.start
        self.stop = self._producer.stop

    async def put(
        self, batch: Sequence[Delivery], sends: Sequence[Send], done: Callable[[], None]
    ) -> Awaitable[None]:
        """Sends them on their way."""
        return self._safe([await self._producer.send(*send) for send in sends], done)

    async def _safe(
        self, under_way: Sequence[Awaitable[int | None]], done: Callable[[], None]
    ) -> None:
        await asyncio.gather(*under_way)
        done()


class ExactlyOnce:
    """Readers of committed records see each answer once, when its transaction ends."""

    def __init__(
        self, settings: Settings, app: Any, topic: str, failed: Callable[[BaseException], None]
    ) -> None:
        """`topic` is that of the requests."""
        app.outbox = self._outbox = Outbox(settings, app, topic, failed)
        self.start = self._outbox.start
        self.stop = self._outbox.stop

    async def put(
        self, batch: Sequence[Delivery], sends: Sequence[Send], done: Callable[[], None]
    ) -> Awaitable[None]:
        """Leaves them for the next transaction, for which the batches behind do not wait."""
        await self._outbox.put(batch, sends, done)
        return _nothing()


async def _nothing() -> None:
    return
