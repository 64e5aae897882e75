"""What others hear of a round of commits: how far the shuffle is, and the group's offsets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from faust.types import TP

from streamsvc.agents.dead_letter_sender import DeadLetterSender
from streamsvc.agents.holdings import Holdings, Partition
from streamsvc.agents.shuffle_sender import ShuffleSender
from streamsvc.features.engine import EngineStats
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.state.progress import ProgressKey
from streamsvc.transport.app import StreamApp
from streamsvc.transport.producer import BatchProducer

__all__ = ["Durability"]

_State: TypeAlias = tuple[dict[Partition, int], list[tuple[str, EngineStats]]]
"""What is durable of each partition, and the size of each view's states."""


class Durability:
    """Tells of what one worker has made durable."""

    def __init__(
        self,
        app: StreamApp,
        holdings: Holdings,
        senders: Mapping[str, ShuffleSender],
        producer: BatchProducer,
        dead: DeadLetterSender,
        metrics: FeatureMetrics,
        on_engine: Callable[[Callable[[], _State]], Awaitable[_State]],
    ) -> None:
        self._app = app
        self._holdings = holdings
        self._senders = senders
        self._producer = producer
        self._dead = dead
        self._metrics = metrics
        self._on_engine = on_engine
        self._written: dict[ProgressKey, int] = {}
        """What the topic of progress says already."""

    async def committed(self) -> None:
        """A round of commits is in the changelogs: write how far each view is shuffled, then let
        the group know what is done."""
        sent = {key: p for sender in self._senders.values() for key, p in sender.sent.items()}
        # Whatever was refused before these rows were offered has to be delivered first.
        await self._dead.flush()
        # On the engine, where a rebalance installs what was taken over.
        durable, stats = await self._on_engine(
            lambda: (self._holdings.durable(sent), self._holdings.stats())
        )
        records = []
        for key, progress in sent.items():
            if self._written.get(key) != progress.offset:
                self._written[key] = progress.offset
                records.append((key.encode(), progress.encode(), ()))
        if records:
            topic = self._holdings.topology.topics.progress
            await (await self._producer.send(topic, 0, records))
        self._app.done_below({TP(*partition): offset for partition, offset in durable.items()})
        self._metrics.show_state(stats)
        for view, n in self._holdings.waiting().items():
            self._metrics.waiting.labels(view).set(n)
