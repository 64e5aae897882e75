"""The scoring worker: request topics in, predictions out. One Faust app per service.

request topic ─► batches ─► pipeline (features, model) ─► predictions, served log, dead letters
                                                          └► acknowledged: requests acknowledged
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any, NamedTuple

from streamsvc.agents.request_start import begin_at_the_end
from streamsvc.agents.rollout_watch import worker_name
from streamsvc.agents.scoring_counts import count_batch
from streamsvc.agents.scoring_delivery import AtLeastOnce, DeliveryMode, ExactlyOnce
from streamsvc.agents.scoring_targets import ScoringTarget, served_topic
from streamsvc.agents.serving import Serving
from streamsvc.agents.servings import Servings
from streamsvc.agents.shadowing import Shadowing
from streamsvc.agents.topic_watch import request_topic, watch_topics
from streamsvc.events.dead_letters import dead_letters, dead_topic
from streamsvc.models.triton_access import check_link
from streamsvc.monitor.metrics import ScoringMetrics
from streamsvc.scoring.batches import Batches
from streamsvc.scoring.output import Outgoing
from streamsvc.scoring.pipeline import Clock, Scored
from streamsvc.settings import Settings
from streamsvc.state.topics import worker_group
from streamsvc.transport.admin import TopicState
from streamsvc.transport.app import create_app
from streamsvc.transport.chunks import Delivery, chunk_topic, chunks
from streamsvc.transport.producer import Send
from streamsvc.transport.records import Record

__all__ = ["ScoringWorker"]

INLINE_ROWS = 32
"""Records of so few predictions are written at once: handing them to a thread costs more."""


class _Answer(NamedTuple):
    serving: Serving
    batch: Sequence[Delivery]
    scored: Scored
    outgoing: Outgoing


class ScoringWorker:
    """One service on the partitions of its request topic that the group assigns to this process."""

    def __init__(
        self,
        settings: Settings,
        project: str,
        target: ScoringTarget,
        metrics: ScoringMetrics,
        threads: Executor,
        instance_id: str | None = None,
    ) -> None:
        """Needs a running event loop: the model server's client binds to it."""
        self.servings = Servings(settings, project, target, threads)
        self._settings = settings
        self._metrics = metrics
        self._threads = threads
        self._shadowing = Shadowing(settings, metrics, threads, lambda: self._topic_id)
        self._topic_id = ""
        self._topic: TopicState | None = None
        name = target.service.name
        self._group = worker_group(settings.topic_prefix, project, "scoring", name)
        self.app = create_app(
            settings,
            self._group,
            # A static member that joins anew gets the partitions that it had (KIP-345): of another
            # topic, once its service has moved.
            instance_id=instance_id and f"{instance_id}.{target.route.requests}",
            client_id=worker_name(instance_id),
        )
        self._batches: Batches[_Answer] = Batches(
            self._score,
            self._publish,
            self.app.fail,
            settings.max_inflight_batches,
            settings.max_inflight_mb * 1_000_000,
        )
        self.app.fetch_gate = self._batches.wanting
        self._delivery: DeliveryMode = (
            ExactlyOnce(settings, self.app, target.route.requests, self.app.fail)
            if target.route.delivery == "exactly_once"
            else AtLeastOnce(settings, self.app.fail)
        )
        self._wire()

    async def start(self) -> None:
        """Start what must be up before the first partition is assigned.

        Others of the service may still be running in this process. Raises what any server does,
        and leaves nothing behind then.
        """
        route = self.servings.target.route
        try:
            if self._settings.model_server == "triton":
                await asyncio.to_thread(check_link, self._settings)
            await self.servings.begin()
            if route.start == "latest":
                await asyncio.to_thread(
                    begin_at_the_end, self._settings, self._group, route.requests
                )
            await self._delivery.start()
        except BaseException:
            await self.servings.end()
            raise
        self._watching = asyncio.create_task(
            watch_topics(
                self._settings,
                lambda: {} if self._topic is None else {route.requests: self._topic},
                dict,
                self.app.fail,
            )
        )
        self.app.watch(self._watching)

    def _wire(self) -> None:
        app = self.app

        async def resume_from(assignment: frozenset[Any]) -> Mapping[Any, int]:
            # The group's offsets hold; but a topic that was made anew must give new ids.
            topic = self.servings.target.route.requests
            now, anew = await asyncio.to_thread(request_topic, self._settings, app.conf.id, topic)
            self._topic, self._topic_id = now, now.topic_id
            app.topic_marks = {topic: self._topic_id}
            return {tp: anew[tp.partition] for tp in assignment if tp.partition in anew}

        app.resume_from = resume_from

        async def consume(stream: Any) -> None:
            async for delivery in chunks(stream):
                await self._batches.put(delivery)

        target = self.servings.target
        topic = chunk_topic(app, target.route.requests)
        app.agent(topic, name=f"requests:{target.service.name}")(consume)

        @app.on_before_shutdown.connect
        async def stop(_app: Any, **_: Any) -> None:
            self._watching.cancel()
            await self._batches.drain()
            await self._delivery.stop()
            await self._shadowing.stop()
            await self.servings.end()

    async def _score(self, batch: Sequence[Delivery]) -> _Answer:
        serving = self.servings.now
        serving.begin()
        try:
            return await self._answer(serving, batch)
        finally:
            serving.end()

    async def _answer(self, serving: Serving, batch: Sequence[Delivery]) -> _Answer:
        scored = await serving.pipeline.score([delivery.chunk for delivery in batch])
        if len(scored.requests) <= INLINE_ROWS:
            written = serving.writer.write(scored, self._topic_id)
            return _Answer(serving, batch, scored, written)
        written = await asyncio.get_running_loop().run_in_executor(
            self._threads, serving.writer.write, scored, self._topic_id
        )
        return _Answer(serving, batch, scored, written)

    async def _publish(self, answer: _Answer) -> Awaitable[None]:
        return await self._delivery.put(
            answer.batch, list(_sends(answer)), partial(self._count, answer)
        )

    def _count(self, answer: _Answer) -> None:
        target = answer.serving.target
        count_batch(
            self._metrics,
            target.service.name,
            answer.scored,
            Clock().wall_ms(),
            dead_letters_sent=target.sends_dead_letters,
        )
        if answer.serving is self.servings.now:  # else its versions may be gone
            self._shadowing.offer(answer.serving, answer.scored)


def _sends(answer: _Answer) -> Iterator[Send]:
    """What is published of an answer."""
    target, scored = answer.serving.target, answer.scored
    for partition, records in answer.outgoing.predictions.items():
        yield target.route.predictions, partition, records
    if answer.outgoing.served:
        topic = served_topic(target.service.name)
        partition = int(scored.requests.partition[0]) % target.partitions[topic]
        yield topic, partition, answer.outgoing.served
    if target.sends_dead_letters:
        for chunk, rejects in scored.rejects:
            dead = dead_topic(chunk.topic)
            letters: list[Record] = [
                (letter.key, letter.value, [(k, v or b"") for k, v in letter.headers])
                for letter in dead_letters(chunk, rejects)
            ]
            yield dead, chunk.partition % target.partitions[dead], letters
