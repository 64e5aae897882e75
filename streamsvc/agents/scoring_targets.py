"""The services that a scoring worker runs, with everything that their routes name, checked once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from streamsvc.agents.topic_plan import service_topics, source_topics, specs
from streamsvc.definitions.plan import Plan, Route, Service, Source
from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import ModelCard, latest_version, load_card
from streamsvc.models.compatibility import check_alike, check_features, check_routable
from streamsvc.models.rollout import Revision
from streamsvc.scoring.inputs import ServiceInputs, service_inputs
from streamsvc.settings import Settings
from streamsvc.state.topics import served_topic
from streamsvc.transport.admin import Admin

__all__ = [
    "Revisions",
    "ScoringTarget",
    "champion_alone",
    "retarget",
    "routed_services",
    "scoring_target",
    "scoring_targets",
    "sends_dead_letters",
    "served_topic",
]


Revisions: TypeAlias = Callable[[str], Revision | None]
"""What shall run for a service; None where nobody has said."""


@dataclass(frozen=True, slots=True)
class ScoringTarget:
    """A service with everything that its route and its revision name, checked once."""

    plan: Plan
    service: Service
    route: Route
    request: Source
    revision: Revision
    champion: ModelCard
    candidate: ModelCard | None
    inputs: ServiceInputs
    """Of the champion's features, and those that the candidate takes besides."""
    model_dir: Path
    """Holds a directory for each version."""
    state_partitions: Mapping[str, int]
    partitions: Mapping[str, int]
    """Topic that the service reads or writes -> its partitions."""
    sends_dead_letters: bool


def scoring_targets(
    settings: Settings,
    plan: Plan,
    model_repository: Path,
    names: Sequence[str],
    revisions: Revisions = lambda _: None,
) -> list[ScoringTarget]:
    """The services to run. Raises ConfigurationError naming what is missing."""
    chosen = routed_services(plan, names)
    return [
        scoring_target(settings, plan, service, model_repository, revisions) for service in chosen
    ]


def routed_services(plan: Plan, names: Sequence[str]) -> list[Service]:
    """The services of these names, or all that have a route if none is named.

    Raises ConfigurationError where there is none.
    """
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
    return chosen


def scoring_target(
    settings: Settings,
    plan: Plan,
    service: Service,
    model_repository: Path,
    revisions: Revisions = lambda _: None,
) -> ScoringTarget:
    """One service with everything that its route names. Makes the topics that are missing.

    Raises ConfigurationError naming what is missing.
    """
    route, request = _route(settings, service), service.request
    assert request is not None
    model_dir = model_repository / route.model
    revision = revisions(service.name)
    if revision is None or not revision.concerns(route.model):
        newest = int(latest_version(model_dir).name)
        revision = Revision.unwritten(service.name, newest, route.model)
    champion, candidate, inputs = _models(plan, service, model_dir, revision)
    everything = service_inputs(plan, service, [str(ref) for ref in service.features])
    views = [plan.view(view.name) for view in everything.views if view.topic is not None]
    topics = [*service_topics(settings, plan.project, service), *source_topics(settings, views)]
    partitions = {t.name: t.partitions for t in Admin(settings).ensure(specs(topics)).values()}
    return ScoringTarget(
        plan=plan,
        service=service,
        route=route,
        request=request,
        revision=revision,
        champion=champion,
        candidate=candidate,
        inputs=inputs,
        model_dir=model_dir,
        state_partitions={
            v.name: settings.key_groups if v.shuffled else partitions[v.source.topic] for v in views
        },
        partitions=partitions,
        sends_dead_letters=sends_dead_letters(plan, service, route.requests),
    )


def retarget(target: ScoringTarget, revision: Revision) -> ScoringTarget:
    """The same definition with what another revision says. Reads model cards.

    Raises ConfigurationError naming what is missing.
    """
    champion, candidate, inputs = _models(target.plan, target.service, target.model_dir, revision)
    return replace(target, revision=revision, champion=champion, candidate=candidate, inputs=inputs)


def champion_alone(target: ScoringTarget) -> ScoringTarget:
    """The same without the candidate: what runs before its revision does."""
    alone = Revision.unwritten(target.service.name, target.revision.champion, target.route.model)
    return retarget(target, alone)


def _models(
    plan: Plan, service: Service, model_dir: Path, revision: Revision
) -> tuple[ModelCard, ModelCard | None, ServiceInputs]:
    """The cards of a revision's versions, and what both of them take."""
    assert service.route is not None
    cards = [load_card(model_dir / str(version)) for version in revision.versions]
    for card in cards:
        check_features(card, plan, service)
        check_routable(card, service.route, service.name)
        check_alike(cards[0], card)
    of_champion = service_inputs(plan, service, cards[0].features)
    if len(cards) == 1:
        return cards[0], None, of_champion
    features = dict.fromkeys(feature for card in cards for feature in card.features)
    inputs = service_inputs(plan, service, list(features))
    # What a prediction is keyed by does not change with what is tried.
    return cards[0], cards[1], replace(inputs, entity_fields=of_champion.entity_fields)


def _route(settings: Settings, service: Service) -> Route:
    """The service's route, with what the settings of this worker put in its place."""
    assert service.route is not None
    given: dict[str, Any] = {
        "freshness_wait_ms": settings.freshness_wait_ms,
        "deadline_ms": settings.deadline_ms,
    }
    return replace(service.route, **{k: v for k, v in given.items() if v is not None})


def sends_dead_letters(plan: Plan, service: Service, topic: str) -> bool:
    """Whether bad records of the request topic are this service's to send on.

    One reader of a topic does it, or there would be as many letters as readers: the feature worker
    where a view reads the topic, else the first service.
    """
    if any(view.source.topic == topic for view in plan.views):
        return False
    readers = [s.name for s in plan.services if s.route is not None and s.route.requests == topic]
    return service.name == min(readers)
