"""Every Triton has loaded what the rollouts name: compared again and again beside the decisions.

So a version that is to be tried is made ready before requests come, a server that was restarted
gets back what it forgot, and one that was undone gives its memory back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from streamsvc.definitions.plan import Plan
from streamsvc.errors import StreamsvcError
from streamsvc.models.artifact import served_versions
from streamsvc.models.reconciler import Change, Reconciler, wanted_versions
from streamsvc.models.rollout_log import RolloutLog
from streamsvc.models.triton_control import TritonControl
from streamsvc.monitor.metrics import RolloutMetrics
from streamsvc.settings import Settings

__all__ = ["Reconciling", "wanted_of"]

log = structlog.get_logger(__name__)

EVERY_S = 5.0
LINGER_S = 60.0
"""A version that nobody names stays so long: making one ready, and writing the rollout that names
it, are two steps."""


def wanted_of(plan: Plan, repository: Path, said: RolloutLog) -> dict[str, frozenset[int]]:
    """Model -> the versions that the services of a plan need, of those in the repository."""
    now_ms = time.time_ns() // 1_000_000
    services: dict[str, list[str]] = {}
    for service in plan.services:
        if service.route is not None:
            services.setdefault(service.route.model, []).append(service.name)
    return {
        model: wanted_versions(model, names, served_versions(repository / model), said, now_ms)
        for model, names in services.items()
    }


class Reconciling:
    """Belongs to one event loop; the servers are asked on threads, one look at a time."""

    def __init__(
        self,
        settings: Settings,
        plan: Plan,
        said: Callable[[], RolloutLog | None],
        metrics: RolloutMetrics,
    ) -> None:
        """`said` is what the rollout topic says now; None while that is not for us to act on.
        `settings.model_repository` is absolute."""
        self._plan = plan
        self._repository = settings.model_repository
        self._said = said
        self._metrics = metrics
        self._servers = [
            settings.model_copy(update={"triton_grpc_url": address})
            for address in settings.triton_addresses
        ]
        self._told: dict[str, str] = {}
        """Address -> why it could not be looked at, as last logged."""

    async def run(self) -> None:
        """Look until cancelled."""
        controls = [TritonControl(server) for server in self._servers]
        found = [Reconciler(each, self._repository, LINGER_S) for each in controls]
        try:
            while True:
                for control, reconciler in zip(controls, found, strict=True):
                    await self._look(control.url, reconciler)
                await asyncio.sleep(EVERY_S)
        finally:
            for control in controls:
                control.close()

    async def _look(self, address: str, reconciler: Reconciler) -> None:
        said = self._said()
        if said is None:
            return
        try:
            wanted = wanted_of(self._plan, self._repository, said)
            changes = await asyncio.to_thread(reconciler.reconcile, wanted)
        except (StreamsvcError, OSError) as error:  # away, or a repository that we may only read
            self._metrics.triton_unreconciled.labels(address).inc()
            if self._told.get(address) != str(error):
                self._told[address] = str(error)
                log.warning("triton_not_reconciled", triton=address, error=str(error))
            return
        self._told.pop(address, None)
        for change in changes:
            self._show(address, change)

    def _show(self, address: str, change: Change) -> None:
        self._metrics.triton_versions.labels(change.model, change.action).inc()
        tell = log.error if change.action == "refused" else log.info
        why = {"why": change.why} if change.why else {}
        tell(f"version_{change.action}", triton=address, model=change.model,
             version=change.version, **why)  # fmt: skip
