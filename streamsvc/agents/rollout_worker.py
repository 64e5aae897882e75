"""The rollout worker: it watches the rollouts that have a policy, and takes the next step of each.

It reads the rollout topic as a member of a group, so that of several workers one decides and
another goes on where it stops. Nothing of its own has to survive: the revisions and the progress
are in the topic, and the evidence is read again from the rollout's start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec
import structlog
from faust.types import TP

from streamsvc.agents.alias_following import AliasFollowing
from streamsvc.agents.reconciling import Reconciling
from streamsvc.agents.rollout_reading import RolloutReading, open_evidence
from streamsvc.agents.rollouts import add_chunk, append_revision, write_progress
from streamsvc.agents.topic_plan import rollout_topic, rollout_topics, specs
from streamsvc.definitions.plan import Plan
from streamsvc.errors import ConfigurationError, StreamsvcError
from streamsvc.models.registry import Registry
from streamsvc.models.rollout import Revision, Words, promote, undo, weigh
from streamsvc.models.rollout_decision import Decision, Standing, decide
from streamsvc.models.rollout_log import Progress, RolloutLog
from streamsvc.models.rollout_policy import Policy, policy_of
from streamsvc.monitor.metrics import RolloutMetrics
from streamsvc.settings import Settings
from streamsvc.state.topics import worker_group
from streamsvc.transport.admin import Admin
from streamsvc.transport.app import create_app
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.chunks import chunk_topic, chunks

__all__ = ["CONTROLLER", "OpenRegistry", "RolloutWorker"]

log = structlog.get_logger(__name__)

CONTROLLER = "streamsvc worker rollout"
"""Who makes its changes, as the history tells."""
LOOK_S = 0.25
OpenRegistry: TypeAlias = Callable[[], Registry | None]


@dataclass(slots=True)
class _Watched:
    """A rollout that is being watched."""

    began: int
    """Number of the revision that started it."""
    policy: Policy
    reading: RolloutReading
    standing: Standing
    about: int
    """The revision that the standing is about."""
    told: str = ""
    """The kind of the last decision that was logged."""


class RolloutWorker:
    """Watches all services of a plan while the rollout topic is this worker's."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        metrics: RolloutMetrics,
        instance_id: str | None = None,
        open_registry: OpenRegistry = lambda: None,
    ) -> None:
        """`settings.model_repository` is absolute. `open_registry` gives the registry of models
        whose aliases follow, None where there is none."""
        self._settings = settings
        self._plan = plan
        self._services = {s.name: s for s in plan.services if s.route is not None}
        self._metrics = metrics
        self._open_registry = open_registry
        self._topic = rollout_topic(settings, plan.project)
        self._log = RolloutLog()
        self._mine = False
        self._known_from = 0
        """Offset from which on the log says what holds: before that it tells of the past."""
        self._watched: dict[str, _Watched] = {}
        self._refused: dict[str, str] = {}
        """Service -> why its rollout cannot be watched, as last logged."""
        group = worker_group(settings.topic_prefix, plan.project, "rollout")
        self.app = create_app(settings, group, instance_id=instance_id)
        self._wire()

    def _wire(self) -> None:
        app = self.app

        async def resume_from(assignment: frozenset[Any]) -> Mapping[Any, int]:
            self._mine = False
            await self._let_go()
            admin, topic = Admin(self._settings), self._topic.name
            starts = await asyncio.to_thread(admin.start_offsets, topic)
            ends = await asyncio.to_thread(admin.end_offsets, topic)
            self._log = RolloutLog()
            self._log.position, self._known_from = starts[0], ends[0]
            self._mine = bool(assignment)
            return {TP(topic, tp.partition): starts[tp.partition] for tp in assignment}

        app.resume_from = resume_from

        async def consume(stream: Any) -> None:
            async for delivery in chunks(stream):
                self.take(delivery.chunk)
                delivery.ack()

        app.agent(chunk_topic(app, self._topic.name), name="rollouts")(consume)

        @app.on_partitions_revoked.connect
        async def revoked(_app: Any, *_args: Any, **_: Any) -> None:
            self._mine = False

        @app.on_before_shutdown.connect
        async def stop(_app: Any, **_: Any) -> None:
            self._mine = False
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)
            await self._let_go()

    @property
    def leads(self) -> bool:
        """Whether this worker decides: the topic is its own, and read to where it ended then. Old
        revisions that it meets on the way there are nobody's to decide any more."""
        return self._mine and self._log.position >= self._known_from

    def said(self) -> RolloutLog | None:
        """What the rollout topic says, if this worker leads."""
        return self._log if self.leads else None

    def take(self, chunk: Chunk) -> None:
        """Read a chunk of the rollout topic."""
        add_chunk(self._log, chunk)

    async def start(self) -> None:
        """Begin to look; needs a running event loop."""
        topics = specs(rollout_topics(self._settings, self._plan))
        await asyncio.to_thread(Admin(self._settings).ensure, topics)
        models = {s.name: s.route.model for s in self._services.values() if s.route is not None}
        aliases = AliasFollowing(models, self._open_registry, self.said, self._metrics)
        self._tasks = [asyncio.create_task(self._look_on()), asyncio.create_task(aliases.run())]
        if self._settings.model_server == "triton":
            reconciling = Reconciling(self._settings, self._plan, self.said, self._metrics)
            self._tasks.append(asyncio.create_task(reconciling.run()))
        for task in self._tasks:
            self.app.watch(task)

    async def _look_on(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for service in list(self._services):
                try:
                    await self._look(service, time.time_ns() // 1_000_000)
                except StreamsvcError as error:
                    if self._refused.get(service) != str(error):
                        self._refused[service] = str(error)
                        log.warning("rollout_not_watched", service=service, error=str(error))

    async def _look(self, service: str, now_ms: int) -> None:
        """Take a service's next step, if it is due."""
        revision = self._log.current(service) if self.leads else None
        if revision is None or not self._decides(revision):
            await self._forget(service)
            return
        began = self._began(revision)
        watched = self._watched.get(service)
        if watched is None or watched.began != began.revision:
            await self._forget(service)
            watched = await self._watch(revision, began)
            self._watched[service] = watched
            self._refused.pop(service, None)
        if revision.revision < watched.about:
            return  # our own last step has not come back to us yet
        if revision.revision > watched.about:  # somebody else's, or one before a restart
            watched.standing = self._standing(revision, began)
            watched.about = revision.revision
        refused = {
            worker: said.refused
            for worker, said in self._log.applied.get(service, {}).items()
            if said.refused is not None and said.revision == revision.revision
        }
        evidence = watched.reading.at(watched.standing.since_ms, refused)
        decision = decide(revision, watched.policy, watched.standing, evidence, now_ms)
        self._show(service, revision, watched, decision)
        await self._act(revision, watched, decision, now_ms)

    def _decides(self, revision: Revision) -> bool:
        """Whether a revision leaves anything to decide."""
        route = self._services[revision.service].route
        assert route is not None
        running = revision.status == "running" and revision.policy is not None
        return running and revision.concerns(route.model)

    async def _act(
        self, revision: Revision, watched: _Watched, decision: Decision, now_ms: int
    ) -> None:
        words = Words(CONTROLLER, now_ms, decision.why)
        wanted = {
            "weigh": lambda: weigh(revision, decision.weight, words, mode=decision.mode),
            "promote": lambda: promote(revision, words),
            "undo": lambda: undo(revision, words),
        }.get(decision.kind)
        about = revision.revision
        if wanted is not None:
            await append_revision(self._settings, self._plan.project, wanted())
            about += 1
        if decision.standing != watched.standing or about != revision.revision:
            watched.standing, watched.about = decision.standing, about
            state: dict[str, Any] = msgspec.to_builtins(decision.standing)
            progress = Progress(revision.service, about, now_ms, state)
            await write_progress(self._settings, self._plan.project, progress)

    async def _watch(self, revision: Revision, began: Revision) -> _Watched:
        service = self._services[revision.service]
        if not self._settings.served_log:
            raise ConfigurationError(
                f"The rollout of service {service.name!r} cannot be judged without a served log: "
                "set served_log to true for this worker and the scoring workers."
            )
        policy = policy_of(revision.policy or {})
        evidence = open_evidence(self._settings, self._plan, service, revision, policy)
        reading = RolloutReading(self._settings, service, evidence, began.at_ms)
        log.info("rollout_watched", service=service.name, version=revision.versions[1])
        standing = self._standing(revision, began)
        return _Watched(began.revision, policy, reading, standing, revision.revision)

    def _began(self, revision: Revision) -> Revision:
        """The revision that started the rollout which this one belongs to."""
        for held in reversed(self._log.revisions[revision.service]):
            if held.action == "start":
                return held
        return revision

    def _standing(self, revision: Revision, began: Revision) -> Standing:
        """How a rollout stands, as the topic says; a change by others begins another interval."""
        progress = self._log.progress.get(revision.service)
        if progress is None or progress.revision < began.revision:
            return Standing(revision.at_ms)
        standing = msgspec.convert(progress.state, Standing)
        if progress.revision == revision.revision:
            return standing
        return msgspec.structs.replace(standing, since_ms=revision.at_ms)

    def _show(
        self, service: str, revision: Revision, watched: _Watched, decision: Decision
    ) -> None:
        """Log and count a decision; one that repeats the last is not told again."""
        candidate = revision.candidate
        assert candidate is not None
        for outcome, n in watched.reading.counts.items():
            self._metrics.labels.labels(service, outcome).set(n)
        self._metrics.weight.labels(service).set(
            decision.weight if decision.kind == "weigh" else candidate.weight
        )
        self._metrics.failures.labels(service).set(decision.standing.failures)
        again = decision.kind in {"wait", "hold"} and decision.kind == watched.told
        watched.told = decision.kind
        if again or decision.kind == "wait":
            return
        self._metrics.decisions.labels(service, decision.kind).inc()
        log.info("rollout_decision", service=service, decision=decision.kind, why=decision.why)

    async def _forget(self, service: str) -> None:
        watched = self._watched.pop(service, None)
        if watched is not None:
            self._metrics.weight.labels(service).set(0)
            self._metrics.failures.labels(service).set(0)
            for outcome in watched.reading.counts:
                self._metrics.labels.labels(service, outcome).set(0)
            await watched.reading.close()

    async def _let_go(self) -> None:
        for service in list(self._watched):
            await self._forget(service)
