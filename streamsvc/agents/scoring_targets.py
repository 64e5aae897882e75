"""The services that a scoring worker runs, with everything that their routes name, checked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from streamsvc.definitions.plan import Plan, Route, Service, Source
from streamsvc.errors import ConfigurationError
from streamsvc.events.dead_letters import dead_topic
from streamsvc.models.artifact import latest_version
from streamsvc.models.local_model import LocalModel
from streamsvc.scoring.inputs import ServiceInputs, service_inputs
from streamsvc.settings import Settings
from streamsvc.state.topics import DEAD_LETTER_CONFIG
from streamsvc.transport.admin import Admin, TopicSpec

__all__ = ["ScoringTarget", "scoring_targets", "served_topic"]


def served_topic(service: str) -> str:
    """Where the vectors of a service are logged."""
    return f"served.{service}"


@dataclass(frozen=True, slots=True)
class ScoringTarget:
    """A service with everything that its route names, checked once."""

    service: Service
    route: Route
    request: Source
    inputs: ServiceInputs
    model: LocalModel
    state_partitions: Mapping[str, int]
    partitions: Mapping[str, int]
    """Topic that the service writes to -> its partitions."""
    sends_dead_letters: bool


def scoring_targets(
    settings: Settings, plan: Plan, model_repository: Path, names: Sequence[str]
) -> list[ScoringTarget]:
    """The services to run. Raises ConfigurationError naming what is missing."""
    routed = {s.name: s for s in plan.services if s.route is not None}
    for name in names:
        if name not in routed:
            raise ConfigurationError(
                f"No FeatureService {name!r} with a scoring route; there are {sorted(routed)}. "
                "Give it one with tags=ScoringRoute(…).tags() and `feast apply`."
            )
    chosen = [routed[name] for name in (names or sorted(routed))]
    if not chosen:
        raise ConfigurationError(
            "No FeatureService has a scoring route: add tags=ScoringRoute(…).tags() to one and "
            "`feast apply`."
        )
    admin = Admin(settings)
    return [_target(settings, admin, plan, service, model_repository) for service in chosen]


def _target(
    settings: Settings, admin: Admin, plan: Plan, service: Service, model_repository: Path
) -> ScoringTarget:
    route, request = _route(settings, service), service.request
    assert request is not None
    model = LocalModel(latest_version(model_repository / route.model))
    inputs = service_inputs(plan, service, model.card.features)
    written = (route.predictions, served_topic(service.name), dead_topic(route.requests))
    views = [plan.view(view.name) for view in inputs.views if view.topic is not None]
    partitions = settings.topic_partitions
    admin.ensure(
        [
            *(TopicSpec(t, partitions) for t in {route.requests, *(v.source.topic for v in views)}),
            *(TopicSpec(t, partitions) for t in written[:2]),
            TopicSpec(written[2], partitions, DEAD_LETTER_CONFIG),
        ]
    )
    return ScoringTarget(
        service=service,
        route=route,
        request=request,
        inputs=inputs,
        model=model,
        state_partitions={
            v.name: settings.key_groups if v.shuffled else _partitions(admin, v.source.topic)
            for v in views
        },
        partitions={topic: _partitions(admin, topic) for topic in written},
        sends_dead_letters=_sends_dead_letters(plan, service, route.requests),
    )


@retry(
    retry=retry_if_exception_type(ConfigurationError),
    stop=stop_after_delay(10),
    wait=wait_fixed(0.05),
    reraise=True,
)
def _partitions(admin: Admin, topic: str) -> int:
    """Partitions of a topic that exists; a broker may take a moment to know one just created."""
    return admin.partitions(topic)


def _route(settings: Settings, service: Service) -> Route:
    """The service's route, with what the settings of this worker put in its place."""
    assert service.route is not None
    given: dict[str, Any] = {
        "freshness_wait_ms": settings.freshness_wait_ms,
        "deadline_ms": settings.deadline_ms,
    }
    return replace(service.route, **{k: v for k, v in given.items() if v is not None})


def _sends_dead_letters(plan: Plan, service: Service, topic: str) -> bool:
    """Whether bad records of the request topic are this service's to send on.

    One reader of a topic does it, or there would be as many letters as readers: the feature worker
    where a view reads the topic, else the first service.
    """
    if any(view.source.topic == topic for view in plan.views):
        return False
    readers = [s.name for s in plan.services if s.route is not None and s.route.requests == topic]
    return service.name == min(readers)
