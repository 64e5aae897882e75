"""Services that change while a scoring worker runs.

A changed service takes over when all views that it reads serve their rows as they are defined now:
until then the definition before, whose rows are still there, goes on answering. So does it where
the new one cannot run: its model was trained with features that the service has no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from pathlib import Path

import structlog

from streamsvc.agents.scoring_targets import (
    Revisions,
    ScoringTarget,
    routed_services,
    scoring_target,
)
from streamsvc.agents.survey import standing_views
from streamsvc.agents.topology import RunningView
from streamsvc.definitions.plan import Plan
from streamsvc.errors import ConfigurationError, StreamsvcError, UnavailableError
from streamsvc.models.artifact import served_versions
from streamsvc.settings import Settings
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers

__all__ = ["ServiceChanges"]

log = structlog.get_logger(__name__)


class ServiceChanges:
    """Finds out what runs next, and hands it over when its features are there."""

    def __init__(
        self,
        settings: Settings,
        model_repository: Path,
        names: Sequence[str],
        revisions: Revisions,
        take_up: Callable[[ScoringTarget], Awaitable[None]],
        leave: Callable[[frozenset[str]], Awaitable[None]],
    ) -> None:
        """`take_up` runs a target from now on; `leave` stops services other than those named."""
        self._settings = settings
        self._models = model_repository
        self._names = names
        self._revisions = revisions
        self._take_up = take_up
        self._leave = leave
        self._store = connect(settings)
        self._waiting: dict[str, tuple[Plan, ScoringTarget]] = {}
        self._wanted: Mapping[str, str] = {}
        """Service -> model, of the definitions seen last."""
        self._plan: Plan | None = None
        self._refused: set[str] = set()
        self._told: dict[str, list[str]] = {}
        """Service -> views that it waits for, as last logged."""

    def models(self) -> Hashable:
        """The versions of every model that is wanted: a service that was refused for its
        model is looked at again when there is another one."""
        return tuple(
            (name, tuple(served_versions(self._models / model)))
            for name, model in self._wanted.items()
        )

    def want(self, plan: Plan) -> None:
        """These definitions are wanted, whether they run or not."""
        self._plan = plan
        found = routed_services(plan, self._names)
        self._wanted = {s.name: s.route.model for s in found if s.route is not None}

    async def change(self, plan: Plan) -> None:
        """Run another plan, service by service, as soon as each can.

        Raises ConfigurationError that names every service which cannot run as it is defined now;
        what it was before goes on.
        """
        services = await asyncio.to_thread(routed_services, plan, self._names)
        again = plan is self._plan
        self.want(plan)
        self._waiting = {name: found for name, found in self._waiting.items() if again}
        before, self._refused = self._refused, set()
        wrong = []
        for service in services:
            if again and service.name not in before:
                continue  # a new model alone changes nothing that runs
            try:
                target = await asyncio.to_thread(
                    scoring_target, self._settings, plan, service, self._models, self._revisions
                )
            except UnavailableError:
                raise
            except StreamsvcError as error:
                wrong.append(f"{service.name}: {error}")
                self._refused.add(service.name)
                continue
            self._waiting[service.name] = plan, target
        await self.advance()
        await self._leave(frozenset(service.name for service in services))
        if wrong:
            raise ConfigurationError(" ".join(wrong))

    async def follow(self) -> None:
        """Take up whatever waits, as soon as its features are there. Never returns."""
        told = ""
        while True:
            await asyncio.sleep(self._settings.definitions_interval_s)
            try:
                await self.advance()
            except StreamsvcError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("services_not_changed_yet", error=told)

    async def advance(self) -> None:
        """Take up what can run now."""
        for name, (plan, target) in list(self._waiting.items()):
            missing = await asyncio.to_thread(self._missing, plan, target)
            if missing != self._told.get(name, []):
                self._told[name] = missing
                log.info("service_waits", service=name, views=missing)
            if missing:
                continue
            if self._waiting.get(name) == (plan, target):
                del self._waiting[name]
                try:
                    await self._take_up(target)
                except BaseException:
                    # Tried again, unless something newer is wanted by now.
                    self._waiting.setdefault(name, (plan, target))
                    raise
                log.info("service_changed", service=name, model=target.champion.version)

    def _missing(self, plan: Plan, target: ScoringTarget) -> list[str]:
        """Views of the target that do not serve everywhere as they are defined. Blocking."""
        views = [view.name for view in target.inputs.views if view.topic is not None]
        if not views:
            return []
        standing, _ = asyncio.run(standing_views(self._settings, plan))
        return [view for view in views if not self._serves(plan, target, view, standing)]

    def _serves(
        self, plan: Plan, target: ScoringTarget, view: str, standing: Mapping[str, RunningView]
    ) -> bool:
        running = standing.get(view)
        if running is None:
            return False
        partitions = range(target.state_partitions[view])
        markers = read_markers(self._store, plan.project, view, partitions)
        return all(m is not None and m.incarnation >= running.incarnation for m in markers)
