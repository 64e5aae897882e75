"""Running a rollout worker: for a plan, or for a repo."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import structlog

from streamsvc.agents.rollout_worker import OpenRegistry, RolloutWorker
from streamsvc.definitions.plan import Plan
from streamsvc.definitions.registry import load_plan
from streamsvc.errors import ConfigurationError
from streamsvc.models.registry import Registry
from streamsvc.monitor.metrics import RolloutMetrics, serve_metrics
from streamsvc.settings import Settings
from streamsvc.transport.app import serve

__all__ = ["run", "run_rollouts"]

log = structlog.get_logger(__name__)


async def run(settings: Settings, repo: Path, instance_id: str | None = None) -> None:
    """Decide the rollouts of a Feast repo until SIGTERM or SIGINT.

    Raises what stopped it: ConfigurationError or UnavailableError.
    """
    plan = load_plan(repo, settings.max_future_ms)
    await run_rollouts(
        settings,
        plan,
        repo / settings.model_repository,
        instance_id,
        open_registry=partial(Registry.open_existing, settings, repo),
    )


async def run_rollouts(
    settings: Settings,
    plan: Plan,
    model_repository: Path,
    instance_id: str | None = None,
    stop: asyncio.Event | None = None,
    open_registry: OpenRegistry = lambda: None,
) -> None:
    """As `run`, for a plan that is at hand; ends when `stop` is set, too."""
    if not any(service.route is not None for service in plan.services):
        raise ConfigurationError(
            "No FeatureService has a scoring route: add tags=ScoringRoute(…).tags() to one and "
            "`feast apply`."
        )
    metrics = RolloutMetrics()
    port = serve_metrics(metrics.registry, settings.metrics_port)
    chosen = settings.model_copy(update={"model_repository": model_repository})
    worker = RolloutWorker(chosen, plan, metrics, instance_id, open_registry)
    await worker.start()
    log.info("rollout_worker_started", metrics_port=port)
    await serve(worker.app, stop)
    log.info("rollout_worker_stopped")
