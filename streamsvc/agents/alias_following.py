"""The registry of models is told what the rollouts have made of its versions.

Nothing that runs reads it there, so a registry that is away stops nothing: it is told later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from streamsvc.errors import StreamsvcError
from streamsvc.models.aliases import follow
from streamsvc.models.registry import Registry
from streamsvc.models.rollout_log import RolloutLog
from streamsvc.monitor.metrics import RolloutMetrics

__all__ = ["AliasFollowing"]

log = structlog.get_logger(__name__)

EVERY_S = 2.0
AGAIN_S = 30.0
"""After a registry that was away."""


class AliasFollowing:
    """Belongs to one event loop; the registry is asked on threads, one call at a time."""

    def __init__(
        self,
        models: Mapping[str, str],
        open_registry: Callable[[], Registry | None],
        said: Callable[[], RolloutLog | None],
        metrics: RolloutMetrics,
    ) -> None:
        """`models` is service -> the model of its route. `open_registry` gives None where no
        registry is; `said` is what the rollout topic says now, None while that is not for us to
        act on."""
        self._models = models
        self._open = open_registry
        self._said = said
        self._metrics = metrics
        self._registry: Registry | None = None
        self._followed: dict[str, int] = {}
        """Service -> the revision that the registry knows of."""
        self._told = ""

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            pause_s = EVERY_S
            for service in self._models:
                if not await self.follow(service):
                    pause_s = AGAIN_S
            await asyncio.sleep(pause_s)

    async def follow(self, service: str) -> bool:
        """Tell the registry what runs for a service; False if that was not possible."""
        said, model = self._said(), self._models[service]
        now = None if said is None else said.current(service)
        if said is None or now is None or not now.concerns(model):
            return True
        if self._followed.get(service) == now.revision:
            return True
        revisions = list(said.revisions[service])
        try:
            if self._registry is None:
                self._registry = await asyncio.to_thread(self._open)
            if self._registry is None:
                return True
            moved = await asyncio.to_thread(follow, self._registry, model, revisions)
        except StreamsvcError as error:
            self._registry = None
            self._metrics.aliases_failed.inc()
            if self._told != str(error):
                self._told = str(error)
                log.warning("aliases_not_moved", model=model, error=self._told)
            return False
        self._told = ""
        self._followed[service] = now.revision
        for alias, version in moved.items():
            log.info("alias_moved", model=model, alias=alias, version=version)
        return True
