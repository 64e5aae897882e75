"""Chunks as Faust sees them: a topic whose agents receive Chunk values.

topic = chunk_topic(app, "payments")

@app.agent(topic)
async def work(stream):
    async for delivery in chunks(stream):
        ...use delivery.chunk...
        delivery.ack()
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import faust
from faust.types import ConsumerMessage

from streamsvc.transport.chunk import Chunk
from streamsvc.transport.ledger import Slot

__all__ = ["ChunkMessage", "ChunkSchema", "Delivery", "all_arrived", "chunk_topic", "chunks"]

QUIET_ITERATIONS = 4
"""Iterations of the event loop that a chunk takes from a fetch through Faust to its agent."""
MOST_ITERATIONS = 64
"""However many there are, what has arrived does not wait for more of them than this."""


class ChunkSchema(faust.Schema):
    """Marks a topic as chunked, and hands the chunk through as the event's value."""

    def compile(self, app: Any, **kwargs: Any) -> Any:
        """Faust's decoder of a message: there is nothing to decode."""
        create_event = app.create_event

        async def decode(message: Any, **kwargs: Any) -> Any:
            return create_event(None, message.value, None, message)

        return decode


class ChunkMessage(ConsumerMessage):
    """A Faust message that stands for a chunk: acknowledging it acknowledges its slot.

    Faust keeps a list of acknowledged offsets of its own, which is not consulted for chunks.
    """

    __slots__ = ("_acked", "slot")

    def __init__(self, slot: Slot, *args: Any, **kwargs: Any) -> None:
        self.slot = slot
        super().__init__(*args, **kwargs)

    @property
    def acked(self) -> bool:
        """Faust's compiled stream sets this directly instead of calling `ack`."""
        return self._acked

    @acked.setter
    def acked(self, value: bool) -> None:
        self._acked = value
        if value:
            self.slot.ack()

    def on_final_ack(self, consumer: Any) -> bool:
        """Every agent is done with the chunk."""
        self.acked = True
        return True


@dataclass(frozen=True, slots=True)
class Delivery:
    """A chunk and what to call when all of it is done, from any thread, in any order."""

    chunk: Chunk
    ack: Callable[[], None]
    slot: Slot

    @property
    def live(self) -> bool:
        """Whether it is ours to answer: its partition was neither revoked nor sought since."""
        return self.slot.live


def chunk_topic(app: Any, *names: str, buffer_chunks: int = 10, **options: Any) -> Any:
    """A Faust topic whose agents receive chunks.

    `buffer_chunks` bounds how many wait for the agent; beyond it, fetching pauses.
    """
    return app.topic(*names, schema=ChunkSchema(), maxsize=buffer_chunks, **options)


async def chunks(stream: Any) -> AsyncIterator[Delivery]:
    """The deliveries of a chunk topic's stream.

    Nothing is acknowledged but by `Delivery.ack`. Chunks whose partition was revoked or sought
    while they waited are left out; those will come again, here or elsewhere.
    """
    async for event in stream.noack().events():
        message = event.message
        if message.slot.live:
            yield Delivery(event.value, _once(message, event.app.consumer), message.slot)


async def all_arrived(count: Callable[[], int]) -> None:
    """Let Faust hand over what lies fetched: return once `count` stays what it is, or soon.

    The chunks of one fetch come one by one, and are better taken together. This never waits for
    anything that is not in this process yet.
    """
    last, quiet = count(), 0
    for _ in range(MOST_ITERATIONS):
        await asyncio.sleep(0)
        now = count()
        quiet = quiet + 1 if now == last else 0
        last = now
        if quiet == QUIET_ITERATIONS:
            return


def _once(message: Any, consumer: Any) -> Callable[[], None]:
    """Faust counts acknowledgements (one per agent), so that each agent may give only one."""
    given = False

    def ack() -> None:
        nonlocal given
        if not given:
            given = True
            message.ack(consumer)

    return ack
