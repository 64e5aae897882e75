"""The scoring worker: request topics in, predictions out. One Faust app per service.

request topic ─► batches ─► pipeline (features, model) ─► predictions, served log, dead letters
                                                          └► acknowledged: requests acknowledged
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from streamsvc.agents.definition_watch import Definitions, watch_definitions
from streamsvc.agents.request_start import begin_at_the_end
from streamsvc.agents.scoring_counts import count_batch
from streamsvc.agents.scoring_delivery import AtLeastOnce, DeliveryMode, ExactlyOnce
from streamsvc.agents.scoring_fleet import ScoringFleet
from streamsvc.agents.scoring_targets import ScoringTarget, scoring_targets, served_topic
from streamsvc.agents.service_changes import ServiceChanges
from streamsvc.agents.serving import Serving
from streamsvc.agents.topic_watch import request_topic, watch_topics
from streamsvc.definitions.plan import Plan
from streamsvc.errors import StreamsvcError
from streamsvc.events.dead_letters import dead_letters, dead_topic
from streamsvc.models.triton_access import check_link
from streamsvc.monitor.metrics import ScoringMetrics, serve_metrics
from streamsvc.scoring.batches import Batches
from streamsvc.scoring.output import Outgoing
from streamsvc.scoring.pipeline import Clock, Scored
from streamsvc.settings import Settings
from streamsvc.state.topics import worker_group
from streamsvc.transport.admin import TopicState
from streamsvc.transport.app import create_app
from streamsvc.transport.chunks import Delivery, chunk_topic, chunks
from streamsvc.transport.producer import Record, Send

__all__ = ["ScoringWorker", "run", "run_services"]

log = structlog.get_logger(__name__)

THREADS = 4
"""Two for each service, and so many at least: a batch may wait for its events on one."""
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
        self._settings = settings
        self._project = project
        self._metrics = metrics
        self._threads = threads
        self._topic_id = ""
        self._topic: TopicState | None = None
        name = target.service.name
        self._serving = Serving(settings, project, target, threads)
        self._batches: Batches[_Answer] = Batches(
            self._score,
            self._publish,
            self._fatal,
            settings.max_inflight_batches,
            settings.max_inflight_mb * 1_000_000,
        )
        self._group = worker_group(settings.topic_prefix, project, "scoring", name)
        self.app = create_app(
            settings,
            self._group,
            # A static member that joins anew gets the partitions that it had (KIP-345): of another
            # topic, once its service has moved.
            instance_id=instance_id and f"{instance_id}.{target.route.requests}",
        )
        self.app.fetch_gate = self._batches.wanting
        self._delivery: DeliveryMode = (
            ExactlyOnce(settings, self.app, target.route.requests, self._fatal)
            if target.route.delivery == "exactly_once"
            else AtLeastOnce(settings, self._fatal)
        )
        self._wire()

    async def start(self) -> None:
        """Start what must be up before the first partition is assigned.

        Others of the service may still be running in this process. Raises what any server does,
        and leaves nothing behind then.
        """
        topic = self.target.route.requests
        try:
            if self._settings.model_server == "triton":
                await asyncio.to_thread(check_link, self._settings)
            await self._serving.prove()
            if self.target.route.start == "latest":
                await asyncio.to_thread(begin_at_the_end, self._settings, self._group, topic)
            await self._delivery.start()
        except BaseException:
            await self._serving.close()
            raise
        self._watching = asyncio.create_task(
            watch_topics(
                self._settings,
                lambda: {} if self._topic is None else {topic: self._topic},
                dict,
                self._fatal,
            )
        )

    @property
    def target(self) -> ScoringTarget:
        """What is being served."""
        return self._serving.target

    async def take_up(self, target: ScoringTarget) -> None:
        """Answer by another target of the same request topic from the next batch on.

        Raises what the model server does; then nothing has changed.
        """
        serving = Serving(self._settings, self._project, target, self._threads)
        try:
            await serving.prove()
        except BaseException:
            await serving.close()
            raise
        before, self._serving = self._serving, serving
        await before.idle()
        await before.close()

    def _wire(self) -> None:
        app = self.app

        async def resume_from(assignment: frozenset[Any]) -> Mapping[Any, int]:
            # The group's offsets hold; but a topic that was made anew must give new ids.
            topic = self.target.route.requests
            now, anew = await asyncio.to_thread(request_topic, self._settings, app.conf.id, topic)
            self._topic, self._topic_id = now, now.topic_id
            app.topic_marks = {topic: self._topic_id}
            return {tp: anew[tp.partition] for tp in assignment if tp.partition in anew}

        app.resume_from = resume_from

        async def consume(stream: Any) -> None:
            async for delivery in chunks(stream):
                await self._batches.put(delivery)

        topic = chunk_topic(app, self.target.route.requests)
        app.agent(topic, name=f"requests:{self.target.service.name}")(consume)

        @app.on_before_shutdown.connect
        async def stop(_app: Any, **_: Any) -> None:
            self._watching.cancel()
            await self._batches.drain()
            await self._delivery.stop()
            await self._serving.close()

    async def _score(self, batch: Sequence[Delivery]) -> _Answer:
        serving = self._serving
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
            str(target.model.card.version),
            answer.serving.pipeline.ladder.names,
            answer.scored,
            Clock().wall_ms(),
            dead_letters_sent=target.sends_dead_letters,
        )

    def _fatal(self, error: BaseException) -> None:
        """Stop the worker: a request that got no answer must not be passed over."""
        if self.app.crash_reason is None:
            unforeseen = None if isinstance(error, StreamsvcError) else error
            kind = type(error).__name__
            log.error("worker_stops", error=str(error), kind=kind, exc_info=unforeseen)
            self._crash = asyncio.get_running_loop().create_task(self.app.crash(error))


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


async def run(
    settings: Settings,
    repo: Path,
    services: Sequence[str] = (),
    instance_id: str | None = None,
) -> None:
    """Score for services of a Feast repo (all that have a route if none is named) until SIGTERM,
    following its definitions as they change.

    Raises what stopped it: ConfigurationError, UnavailableError or IntegrityError.
    """
    from streamsvc.feast.row_store import refuse_other_store

    definitions = Definitions(settings, repo)
    refuse_other_store(repo, "scoring workers read rows and markers of our own store only")
    await run_services(
        settings,
        definitions.plan,
        repo / settings.model_repository,
        services,
        instance_id,
        definitions=definitions,
    )


async def run_services(
    settings: Settings,
    plan: Plan,
    model_repository: Path,
    services: Sequence[str] = (),
    instance_id: str | None = None,
    stop: asyncio.Event | None = None,
    definitions: Definitions | None = None,
) -> None:
    """As `run`, for a plan that is at hand; ends when `stop` is set, too."""
    targets = await asyncio.to_thread(scoring_targets, settings, plan, model_repository, services)
    metrics = ScoringMetrics()
    port = serve_metrics(metrics.registry, settings.metrics_port)
    with ThreadPoolExecutor(max(THREADS, 2 * len(targets)), "scoring") as threads:

        def worker(target: ScoringTarget) -> ScoringWorker:
            return ScoringWorker(settings, plan.project, target, metrics, threads, instance_id)

        fleet = ScoringFleet(worker, stop or asyncio.Event())
        for target in targets:
            await fleet.prepare(target)
        log.info(
            "scoring_worker_started",
            services=[t.service.name for t in targets],
            models={t.route.model: t.model.card.version for t in targets},
            model_server=settings.model_server,
            metrics_port=port,
        )
        following: list[Coroutine[Any, Any, None]] = []
        if definitions is not None:
            changes = ServiceChanges(
                settings, model_repository, services, fleet.take_up, fleet.leave
            )
            changes.want(plan)
            definitions.watch_beside(changes.models)
            following = [
                watch_definitions(settings, definitions, changes.change, metrics.definitions),
                changes.follow(),
            ]
        await fleet.run(following)
    log.info("scoring_worker_stopped")
