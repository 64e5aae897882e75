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
from streamsvc.agents.rollout_watch import RolloutWatch, worker_name
from streamsvc.agents.scoring_counts import count_batch
from streamsvc.agents.scoring_delivery import AtLeastOnce, DeliveryMode, ExactlyOnce
from streamsvc.agents.scoring_fleet import ScoringFleet
from streamsvc.agents.scoring_targets import (
    ScoringTarget,
    retarget,
    scoring_targets,
    served_topic,
)
from streamsvc.agents.service_changes import ServiceChanges
from streamsvc.agents.serving import Serving
from streamsvc.agents.shadowing import Shadowing
from streamsvc.agents.topic_watch import request_topic, watch_topics
from streamsvc.definitions.plan import Plan
from streamsvc.errors import StreamsvcError
from streamsvc.events.dead_letters import dead_letters, dead_topic
from streamsvc.models.rollout import Revision
from streamsvc.models.triton_access import check_link
from streamsvc.monitor.metrics import ScoringMetrics, serve_metrics
from streamsvc.scoring.batches import Batches
from streamsvc.scoring.loaded import LoadedVersions
from streamsvc.scoring.output import Outgoing
from streamsvc.scoring.pipeline import Clock, Scored
from streamsvc.settings import Settings
from streamsvc.state.topics import worker_group
from streamsvc.transport.admin import TopicState
from streamsvc.transport.app import create_app
from streamsvc.transport.chunks import Delivery, chunk_topic, chunks
from streamsvc.transport.producer import Send
from streamsvc.transport.records import Record

__all__ = ["ScoringWorker", "run", "run_services"]

log = structlog.get_logger(__name__)

THREADS = 4
"""Two for each service, and so many at least: a batch may wait for its events on one."""
START_DEADLINE_MS, SWITCH_DEADLINE_MS = 60_000, 1_000
"""Of the request that warms a serving up."""
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
        self.target = target
        """What is being served."""
        self._settings = settings
        self._project = project
        self._metrics = metrics
        self._threads = threads
        self._versions = LoadedVersions(settings)
        self._shadowing = Shadowing(settings, metrics, threads, lambda: self._topic_id)
        self._changing = asyncio.Lock()
        self._tidying: set[asyncio.Task[None]] = set()
        self._in_turn = asyncio.Lock()
        self._topic_id = ""
        self._topic: TopicState | None = None
        name = target.service.name
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
            client_id=worker_name(instance_id),
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
        topic, serving = self.target.route.requests, None
        try:
            if self._settings.model_server == "triton":
                await asyncio.to_thread(check_link, self._settings)
            # Whatever serves the champion: better the copy in this process than nobody.
            self._serving = serving = await self._prepared(self.target, strict=False)
            if self.target.route.start == "latest":
                await asyncio.to_thread(begin_at_the_end, self._settings, self._group, topic)
            await self._delivery.start()
        except BaseException:
            if serving is not None:
                await serving.close()
            await self._versions.keep(())
            raise
        self._watching = asyncio.create_task(
            watch_topics(
                self._settings,
                lambda: {} if self._topic is None else {topic: self._topic},
                dict,
                self._fatal,
            )
        )

    async def take_up(self, target: ScoringTarget) -> None:
        """Answer by another target of the same request topic from the next batch on.

        Raises what keeps its versions from running; then nothing has changed.
        """
        async with self._changing:
            running = self.target.revision
            behind = target.revision.revision < running.revision
            if behind and running.concerns(target.route.model):
                target = await asyncio.to_thread(retarget, target, running)
            await self._switch(target)

    async def apply(self, revision: Revision) -> None:
        """Answer by what another revision says from the next batch on.

        Raises what keeps its versions from running; then nothing has changed.
        """
        async with self._changing:
            await self._switch(await asyncio.to_thread(retarget, self.target, revision))

    async def _switch(self, target: ScoringTarget) -> None:
        serving = await self._prepared(target, strict=True)
        before, self._serving, self.target = self._serving, serving, target
        task = asyncio.create_task(self._let_go(before))
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    async def _prepared(self, target: ScoringTarget, *, strict: bool) -> Serving:
        """What answers by a target. A version that this worker has not run yet has to prove itself;
        if `strict`, a model server that is there has to run it, too."""
        dirs = _version_dirs(target)[: len(target.revision.versions)]
        loaded = [await self._versions.get(each, strict=strict) for each in dirs]
        serving = Serving(self._settings, self._project, target, loaded, self._threads)
        try:
            # What has been compiled is compiled: an undo must not wait for a server that hangs.
            await serving.warm(SWITCH_DEADLINE_MS if strict else START_DEADLINE_MS)
        except BaseException:
            await serving.close()
            raise
        return serving

    async def _let_go(self, before: Serving) -> None:
        # In turn: a batch of an earlier serving may still ask a version that nothing else uses.
        async with self._in_turn:
            await before.idle()
            await before.close()
            async with self._changing:
                await self._versions.keep(_version_dirs(self.target))

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
            await self._shadowing.stop()
            await asyncio.gather(*self._tidying)
            await self._serving.close()
            await self._versions.keep(())

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
            answer.scored,
            Clock().wall_ms(),
            dead_letters_sent=target.sends_dead_letters,
        )
        if answer.serving is self._serving:  # else its versions may be gone
            self._shadowing.offer(answer.serving, answer.scored)

    def _fatal(self, error: BaseException) -> None:
        """Stop the worker: a request that got no answer must not be passed over."""
        if self.app.crash_reason is None:
            unforeseen = None if isinstance(error, StreamsvcError) else error
            kind = type(error).__name__
            log.error("worker_stops", error=str(error), kind=kind, exc_info=unforeseen)
            self._crash = asyncio.get_running_loop().create_task(self.app.crash(error))


def _version_dirs(target: ScoringTarget) -> list[Path]:
    """Of the versions that run, and of the one that an undo would bring back."""
    revision = target.revision
    back = () if revision.previous is None else (revision.previous,)
    return [target.model_dir / str(version) for version in (*revision.versions, *back)]


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
    watch = RolloutWatch(settings, plan.project, instance_id)
    await watch.read()
    targets = await asyncio.to_thread(
        scoring_targets, settings, plan, model_repository, services, watch.wanted
    )
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
            models={t.route.model: t.champion.version for t in targets},
            model_server=settings.model_server,
            metrics_port=port,
        )
        following: list[Coroutine[Any, Any, None]] = [watch.run(fleet)]
        if definitions is not None:
            changes = ServiceChanges(
                settings, model_repository, services, watch.wanted, fleet.take_up, fleet.leave
            )
            changes.want(plan)
            definitions.watch_beside(changes.models)
            following += [
                watch_definitions(settings, definitions, changes.change, metrics.definitions),
                changes.follow(),
            ]
        await fleet.run(following)
    log.info("scoring_worker_stopped")
