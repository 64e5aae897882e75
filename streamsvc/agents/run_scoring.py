"""Running scoring workers: the services of a plan, or of a repo whose definitions change."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import structlog

from streamsvc.agents.definition_watch import Definitions, watch_definitions
from streamsvc.agents.rollout_watch import RolloutWatch
from streamsvc.agents.scoring import ScoringWorker
from streamsvc.agents.scoring_fleet import ScoringFleet
from streamsvc.agents.scoring_targets import ScoringTarget, scoring_targets
from streamsvc.agents.service_changes import ServiceChanges
from streamsvc.definitions.plan import Plan
from streamsvc.monitor.metrics import ScoringMetrics, serve_metrics
from streamsvc.settings import Settings

__all__ = ["run", "run_services"]

log = structlog.get_logger(__name__)

THREADS = 4
"""Two for each service, and so many at least: a batch may wait for its events on one."""


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
