"""Running a feature worker: the views of a plan, or of a repo whose definitions change."""

from __future__ import annotations

from pathlib import Path

import structlog

from streamsvc.agents.definition_watch import Definitions
from streamsvc.agents.features import FeatureWorker
from streamsvc.agents.preparing import prepare_topology
from streamsvc.definitions.plan import Plan
from streamsvc.monitor.metrics import FeatureMetrics, serve_metrics
from streamsvc.settings import Settings
from streamsvc.state.topics import InternalTopics
from streamsvc.store.row_store import RowStore
from streamsvc.transport.admin import Admin
from streamsvc.transport.app import serve

__all__ = ["run", "run_views"]

log = structlog.get_logger(__name__)


async def run(settings: Settings, repo: Path, instance_id: str | None = None) -> None:
    """Run a feature worker of a Feast repo, whatever is applied, until SIGTERM or SIGINT.

    Raises what stopped it: ConfigurationError, UnavailableError or IntegrityError.
    """
    from streamsvc.feast.row_store import open_row_store

    admin = Admin(settings)
    definitions = Definitions(settings, repo)
    rows = open_row_store(repo)
    if rows is not None:
        log.warning("rows_without_a_fence", online_store=rows.name, see="docs/online_stores.md")
    # What the control topic says is a part of it: another worker may know more than we do.
    control = InternalTopics(settings.topic_prefix, definitions.plan.project).control
    definitions.watch_beside(lambda: admin.end_offsets(control)[0] if admin.exists(control) else 0)
    await run_views(settings, definitions.plan, instance_id, definitions, rows)


async def run_views(
    settings: Settings,
    plan: Plan,
    instance_id: str | None = None,
    definitions: Definitions | None = None,
    rows: RowStore | None = None,
) -> None:
    """As `run`, for a plan that is at hand; follows `definitions`, if they are given. Rows go to
    the store that the settings name unless there are others, `rows`."""
    topology = await prepare_topology(settings, plan, rows=rows)
    metrics = FeatureMetrics()
    port = serve_metrics(metrics.registry, settings.metrics_port)
    worker = FeatureWorker(settings, topology, metrics, instance_id, definitions, rows)
    await worker.start()
    views = [each.view.name for each in topology.views]
    log.info("feature_worker_started", views=views, metrics_port=port, owner=worker.owner)
    await serve(worker.app)
    log.info("feature_worker_stopped")
