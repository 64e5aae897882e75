"""The scoring worker: request topics in, predictions out. One Faust app per service.

request topic ─► batches ─► pipeline (features, model) ─► predictions, served log, dead letters
                                                          └► acknowledged: requests acknowledged
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from streamsvc.agents.scoring_counts import count_batch
from streamsvc.agents.scoring_delivery import AtLeastOnce, DeliveryMode, ExactlyOnce
from streamsvc.agents.scoring_targets import ScoringTarget, scoring_targets, served_topic
from streamsvc.agents.topic_watch import request_topic, watch_topics
from streamsvc.definitions.plan import Plan
from streamsvc.definitions.registry import load_plan
from streamsvc.errors import StreamsvcError
from streamsvc.events.dead_letters import dead_letters, dead_topic
from streamsvc.events.decode import Decoder
from streamsvc.models.triton_access import check_link
from streamsvc.monitor.metrics import ScoringMetrics, serve_metrics
from streamsvc.scoring.batches import Batches
from streamsvc.scoring.fallback import Endpoint, Ladder
from streamsvc.scoring.features import FeatureReads
from streamsvc.scoring.fetch import StoreReads
from streamsvc.scoring.in_process import InProcessModel
from streamsvc.scoring.marker_watch import MarkerWatch
from streamsvc.scoring.output import Outgoing, Writer
from streamsvc.scoring.pipeline import Clock, Pipeline, Scored
from streamsvc.scoring.requests import RequestReader
from streamsvc.scoring.triton_client import TritonModel
from streamsvc.scoring.warm import sample_chunk
from streamsvc.settings import Settings
from streamsvc.state.topics import worker_group
from streamsvc.store.client import connect
from streamsvc.transport.admin import TopicState
from streamsvc.transport.app import create_app, serve
from streamsvc.transport.chunks import Delivery, chunk_topic, chunks
from streamsvc.transport.producer import Record, Send
from streamsvc.transport.schema_registry import open_registry

__all__ = ["ScoringWorker", "run", "run_services"]

log = structlog.get_logger(__name__)

THREADS = 4
"""Two for each service, and so many at least: a batch may wait for its events on one."""
INLINE_ROWS = 32
"""Records of so few predictions are written at once: handing them to a thread costs more."""


class _Answer(NamedTuple):
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
        self._target = target
        self._metrics = metrics
        self._threads = threads
        self._topic_id = ""
        self._topic: TopicState | None = None
        name = target.service.name
        ladder = _ladder(settings, target)
        reads = StoreReads(connect(settings), project)
        decoder = Decoder(
            target.request,
            max_record_bytes=settings.max_record_bytes,
            registry=open_registry(settings, [target.request]),
        )
        clock = Clock()
        features = FeatureReads(
            target.inputs,
            RequestReader(target.request, decoder),
            reads,
            target.state_partitions,
            clock.monotonic,
        )
        self._watch = MarkerWatch(reads.raw_markers, reads.decode_marker)
        self._pipeline = Pipeline(target.route, features, self._watch, ladder, threads, clock)
        self._writer = Writer(
            target.route,
            target.inputs,
            target.model.card,
            ladder,
            partitions=target.partitions[target.route.predictions],
            served_log=settings.served_log,
        )
        self._batches: Batches[_Answer] = Batches(
            self._score, self._publish, self._fatal, settings.max_inflight_batches
        )
        self.app = create_app(
            settings,
            worker_group(settings.topic_prefix, project, "scoring", name),
            instance_id=instance_id,
        )
        self.app.fetch_gate = self._batches.wanting
        self._delivery: DeliveryMode = (
            ExactlyOnce(settings, self.app, self._fatal)
            if target.route.delivery == "exactly_once"
            else AtLeastOnce(settings, self._fatal)
        )
        self._wire()

    async def start(self) -> None:
        """Start what must be up before the first partition is assigned."""
        await self._delivery.start()
        if self._settings.model_server == "triton":
            await asyncio.to_thread(check_link, self._settings)
        for endpoint in self._pipeline.ladder.endpoints:
            await endpoint.prove()
        scored = await self._pipeline.warm(sample_chunk(self._target.request))
        await asyncio.to_thread(self._writer.write, scored, "")
        topic = self._target.route.requests
        self._watching = asyncio.create_task(
            watch_topics(
                self._settings,
                lambda: {} if self._topic is None else {topic: self._topic},
                {},
                self._fatal,
            )
        )

    def _wire(self) -> None:
        app = self.app

        async def resume_from(assignment: frozenset[Any]) -> Mapping[Any, int]:
            # The group's offsets hold; but a topic that was made anew must give new ids.
            topic = self._target.route.requests
            now, anew = await asyncio.to_thread(request_topic, self._settings, app.conf.id, topic)
            self._topic, self._topic_id = now, now.topic_id
            app.topic_marks = {topic: self._topic_id}
            return {tp: anew[tp.partition] for tp in assignment if tp.partition in anew}

        app.resume_from = resume_from

        async def consume(stream: Any) -> None:
            async for delivery in chunks(stream):
                await self._batches.put(delivery)

        topic = chunk_topic(app, self._target.route.requests)
        app.agent(topic, name=f"requests:{self._target.service.name}")(consume)

        @app.on_before_shutdown.connect
        async def stop(_app: Any, **_: Any) -> None:
            self._watching.cancel()
            await self._batches.drain()
            await self._delivery.stop()
            await self._pipeline.close()
            self._watch.close()

    async def _score(self, batch: Sequence[Delivery]) -> _Answer:
        scored = await self._pipeline.score([delivery.chunk for delivery in batch])
        if len(scored.requests) <= INLINE_ROWS:
            return _Answer(batch, scored, self._writer.write(scored, self._topic_id))
        written = await asyncio.get_running_loop().run_in_executor(
            self._threads, self._writer.write, scored, self._topic_id
        )
        return _Answer(batch, scored, written)

    async def _publish(self, answer: _Answer) -> Awaitable[None]:
        sends = list(self._sends(answer.scored, answer.outgoing))
        return await self._delivery.put(answer.batch, sends, partial(self._count, answer.scored))

    def _sends(self, scored: Scored, outgoing: Outgoing) -> Iterator[Send]:
        for partition, records in outgoing.predictions.items():
            yield self._target.route.predictions, partition, records
        if outgoing.served:
            topic = served_topic(self._target.service.name)
            partition = int(scored.requests.partition[0]) % self._target.partitions[topic]
            yield topic, partition, outgoing.served
        if self._target.sends_dead_letters:
            for chunk, rejects in scored.rejects:
                dead = dead_topic(chunk.topic)
                letters: list[Record] = [
                    (letter.key, letter.value, [(k, v or b"") for k, v in letter.headers])
                    for letter in dead_letters(chunk, rejects)
                ]
                yield dead, chunk.partition % self._target.partitions[dead], letters

    def _count(self, scored: Scored) -> None:
        count_batch(
            self._metrics,
            self._target.service.name,
            str(self._target.model.card.version),
            self._pipeline.ladder.names,
            scored,
            Clock().wall_ms(),
            dead_letters_sent=self._target.sends_dead_letters,
        )

    def _fatal(self, error: BaseException) -> None:
        """Stop the worker: a request that got no answer must not be passed over."""
        if self.app.crash_reason is None:
            unforeseen = None if isinstance(error, StreamsvcError) else error
            kind = type(error).__name__
            log.error("worker_stops", error=str(error), kind=kind, exc_info=unforeseen)
            self._crash = asyncio.get_running_loop().create_task(self.app.crash(error))


async def run(
    settings: Settings,
    repo: Path,
    services: Sequence[str] = (),
    instance_id: str | None = None,
) -> None:
    """Score for services of a Feast repo (all that have a route if none is named) until SIGTERM.

    Raises what stopped it: ConfigurationError, UnavailableError or IntegrityError.
    """
    plan = load_plan(repo, settings.max_future_ms)
    await run_services(settings, plan, repo / settings.model_repository, services, instance_id)


async def run_services(
    settings: Settings,
    plan: Plan,
    model_repository: Path,
    services: Sequence[str] = (),
    instance_id: str | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """As `run`, for a plan that is at hand; ends when `stop` is set, too."""
    targets = await asyncio.to_thread(scoring_targets, settings, plan, model_repository, services)
    metrics = ScoringMetrics()
    port = serve_metrics(metrics.registry, settings.metrics_port)
    stop = stop or asyncio.Event()
    with ThreadPoolExecutor(max(THREADS, 2 * len(targets)), "scoring") as threads:
        workers = [
            ScoringWorker(settings, plan.project, target, metrics, threads, instance_id)
            for target in targets
        ]
        for worker in workers:
            await worker.start()
        log.info(
            "scoring_worker_started",
            services=[t.service.name for t in targets],
            models={t.route.model: t.model.card.version for t in targets},
            model_server=settings.model_server,
            metrics_port=port,
        )
        await _serve_all(workers, stop)
    log.info("scoring_worker_stopped")


async def _serve_all(workers: Sequence[ScoringWorker], stop: asyncio.Event) -> None:
    """Serve every app until one ends; then all of them. Raises the first error."""
    serving = [asyncio.create_task(serve(worker.app, stop)) for worker in workers]
    await asyncio.wait(serving, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    await asyncio.wait(serving)
    for task in serving:
        task.result()


def _ladder(settings: Settings, target: ScoringTarget) -> Ladder:
    servers = [Endpoint(InProcessModel(target.model))]
    if settings.model_server == "triton":
        servers.insert(0, Endpoint(TritonModel.connect(settings, target.model.card)))
    return Ladder(servers, target.route.default, Clock().monotonic)
