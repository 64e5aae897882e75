"""What a shadow would have answered: asked when the answers are out, for the served log alone.

Nobody waits for it. While so many of its rows are under way as one batch may have, further ones are
left out and counted, so a shadow that is slow is asked about fewer requests, and nothing piles up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

import structlog

from streamsvc.agents.scoring_counts import count_answers
from streamsvc.agents.serving import Serving
from streamsvc.errors import StreamsvcError
from streamsvc.monitor.metrics import ScoringMetrics
from streamsvc.scoring.batches import MAX_BATCH_ROWS
from streamsvc.scoring.pipeline import Answers, Scored
from streamsvc.scoring.traffic import Variant
from streamsvc.settings import Settings
from streamsvc.state.topics import served_topic
from streamsvc.transport.producer import BatchProducer

__all__ = ["Shadowing"]

log = structlog.get_logger(__name__)


class Shadowing:
    """Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        metrics: ScoringMetrics,
        threads: Executor,
        topic_id: Callable[[], str],
    ) -> None:
        """`topic_id` identifies the request topic now."""
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._topic_id = topic_id
        self._producer: BatchProducer | None = None
        self._starting = asyncio.Lock()
        self._rows = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, serving: Serving, scored: Scored) -> None:
        """Ask the shadow about a batch whose answers are out, if there is one and it has time."""
        shadow, n = serving.pipeline.traffic.shadow, len(scored.requests)
        if shadow is None or scored.blind or not n:
            return
        if self._rows and self._rows + n > MAX_BATCH_ROWS:
            service = serving.target.service.name
            self._metrics.shadow_skipped.labels(service, shadow.version).inc(n)
            return
        self._rows += n
        serving.begin()
        task = asyncio.create_task(self._ask(serving, shadow, scored))
        self._tasks.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            self._rows -= n
            serving.end()
            if not task.cancelled() and (error := task.exception()) is not None:
                log.error("shadow_failed", error=repr(error), exc_info=error)

        task.add_done_callback(ended)

    async def stop(self) -> None:
        """Leave the rest unasked, and disconnect."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._producer is not None:
            await self._producer.stop()

    async def _ask(self, serving: Serving, shadow: Variant, scored: Scored) -> None:
        answers = await serving.pipeline.shadow(shadow, scored)
        if answers is None:
            return
        count_answers(self._metrics, serving.target.service.name, answers)
        if self._settings.served_log:
            await self._log(serving, answers)

    async def _log(self, serving: Serving, answers: Answers) -> None:
        records = await asyncio.get_running_loop().run_in_executor(
            self._threads, serving.writer.served, answers, self._topic_id()
        )
        topic = served_topic(serving.target.service.name)
        partition = int(answers.asked.requests.partition[0]) % serving.target.partitions[topic]
        try:
            connected = await self._connected()
            await (await connected.send(topic, partition, records))
        except StreamsvcError as error:
            log.warning("shadow_scores_lost", error=str(error), rows=len(answers.scores.values))
            producer, self._producer = self._producer, None  # the next one connects anew
            if producer is not None:
                await producer.stop()

    async def _connected(self) -> BatchProducer:
        async with self._starting:
            if self._producer is None:
                producer = BatchProducer(self._settings)
                await producer.start()
                self._producer = producer
            return self._producer
