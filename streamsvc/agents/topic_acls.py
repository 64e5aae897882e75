"""What each role may do with Kafka: the least that it needs, by the same plan as the topics.

Workers create nothing: whoever operates them does, with `streamsvc topics create`. Topics of state
carry an incarnation in their names, which a changed definition changes, so they are allowed by
their common beginning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamsvc.agents.letter_replay import TRANSACTIONS
from streamsvc.agents.scoring_targets import sends_dead_letters
from streamsvc.agents.topic_plan import (
    PlannedTopic,
    archive_topics,
    named_topics,
    rollout_topics,
    service_topics,
    source_topics,
    view_topics,
)
from streamsvc.agents.topic_plan import Role as TopicRole
from streamsvc.definitions.plan import Plan
from streamsvc.scoring.inputs import service_inputs
from streamsvc.settings import Settings
from streamsvc.state.topics import TAIL_GROUP, InternalTopics, worker_group

__all__ = ["WORK", "Acl", "Resource", "WorkRole", "acls"]

WorkRole: TypeAlias = Literal["features", "scoring", "archive", "rollout", "operator"]
Resource: TypeAlias = Literal["topic", "group", "transactional-id"]
_Operations: TypeAlias = frozenset[str]

WORK: dict[WorkRole, str] = {
    "features": "streamsvc worker features",
    "scoring": "streamsvc worker scoring",
    "archive": "streamsvc worker archive",
    "rollout": "streamsvc worker rollout",
    "operator": "every other command",
}
"""Role -> what its user runs."""

# Read and Write imply Describe.
_READ, _WRITE, _SEE = frozenset({"Read"}), frozenset({"Write"}), frozenset({"Describe"})
_MAKE = frozenset({"Create", "Describe", "DescribeConfigs"})
_STATE: dict[WorkRole, _Operations] = {
    # A worker trims its changelogs, and looks whether one expires.
    "features": _READ | _WRITE | {"Delete", "DescribeConfigs"},
    "operator": _READ | _WRITE | _MAKE,
}
_TOPICS: dict[WorkRole, dict[TopicRole, _Operations]] = {
    "features": {"events": _READ, "dead letters": _WRITE, "updates": _WRITE},
    "scoring": {
        "events": _SEE,
        "requests": _READ,
        "predictions": _WRITE,
        "served log": _WRITE,
        # What shall run, and what does here.
        "rollout": _READ | _WRITE,
        "dead letters": _SEE,
    },
    "archive": {"events": _READ, "dead letters": _WRITE},
    "rollout": {"served log": _READ, "labels": _READ, "rollout": _READ | _WRITE},
    "operator": {
        "events": _READ | _WRITE | _MAKE,
        "requests": _READ | _WRITE | _MAKE,
        "dead letters": _READ | _WRITE | _MAKE,
        "updates": _READ | _MAKE,
        "predictions": _READ | _MAKE,
        "served log": _READ | _MAKE,
        "labels": _READ | _WRITE | _MAKE,
    },
}


@dataclass(frozen=True, slots=True)
class Acl:
    """What is allowed with one resource, or with all whose names begin like this."""

    resource: Resource
    name: str
    operations: tuple[str, ...]
    """As kafka-acls.sh spells them, sorted."""
    prefixed: bool = False


def acls(settings: Settings, plan: Plan, role: WorkRole) -> list[Acl]:
    """Everything that a role needs, each resource once."""
    internal = InternalTopics(settings.topic_prefix, plan.project)
    found = [
        Acl("topic", name, tuple(sorted(_least(allowed))))
        for name, allowed in _topics(settings, plan, role).items()
    ]
    if role in _STATE and (plan.views or role == "operator"):
        operations = tuple(sorted(_least(_STATE[role])))
        found.append(Acl("topic", internal.beginning, operations, prefixed=True))
    if role == "scoring" and plan.views:
        # Which incarnations serve: a changed service waits for those of its views.
        found.append(Acl("topic", internal.control, ("Read",)))
    for group in _groups(settings, plan, role):
        found.append(Acl("group", group, ("Read",)))
    if role == "operator":
        found.append(Acl("group", TAIL_GROUP, ("Describe",)))
        for group in _groups(settings, plan, "scoring"):  # `rollout` asks which workers run
            found.append(Acl("group", group, ("Describe",)))
        if plan.views:  # `backfill` asks whether feature workers run
            features = worker_group(settings.topic_prefix, plan.project, "features")
            found.append(Acl("group", features, ("Describe",)))
    for beginning in _transactions(settings, plan, role):
        found.append(Acl("transactional-id", beginning, ("Write",), prefixed=True))
    return found


def _topics(settings: Settings, plan: Plan, role: WorkRole) -> Mapping[str, _Operations]:
    """By name, in the order in which records travel; topics of state are left out."""
    allowed: dict[str, _Operations] = {}
    for topic in _needed(settings, plan, role):
        operations = _TOPICS[role].get(topic.role)
        if operations is not None:
            allowed[topic.name] = allowed.get(topic.name, frozenset()) | operations
    if role == "scoring":
        for service in plan.services:
            route = service.route
            if route is not None and sends_dead_letters(plan, service, route.requests):
                allowed[InternalTopics.dead(route.requests)] = _WRITE
    return allowed


def _needed(settings: Settings, plan: Plan, role: WorkRole) -> Iterable[PlannedTopic]:
    if role == "features":
        return view_topics(settings, plan)
    if role == "archive":
        archived = [source for source in plan.sources if source.archive_is_directory]
        return archive_topics(settings, plan, archived)
    if role == "rollout":
        return rollout_topics(settings, plan)
    if role == "operator":
        return named_topics(settings, plan)
    found = []
    for service in plan.services:
        if service.route is not None:
            inputs = service_inputs(plan, service, [str(ref) for ref in service.features])
            views = [plan.view(view.name) for view in inputs.views if view.topic is not None]
            found += source_topics(settings, views)
            found += service_topics(settings, plan.project, service)
    return found


def _groups(settings: Settings, plan: Plan, role: WorkRole) -> list[str]:
    prefix, project = settings.topic_prefix, plan.project
    if role == "features" and plan.views:
        return [worker_group(prefix, project, "features")]
    if role == "scoring":
        routed = [service.name for service in plan.services if service.route is not None]
        return [worker_group(prefix, project, "scoring", name) for name in routed]
    if role == "rollout" and any(service.route is not None for service in plan.services):
        return [worker_group(prefix, project, "rollout")]
    if role == "archive" and any(source.archive_is_directory for source in plan.sources):
        return [worker_group(prefix, project, "archive")]
    return []


def _transactions(settings: Settings, plan: Plan, role: WorkRole) -> list[str]:
    """What the ids of this role's transactions begin with."""
    if role == "operator":
        return [TRANSACTIONS]
    exactly_once = [
        service.name
        for service in plan.services
        if service.route is not None and service.route.delivery == "exactly_once"
    ]
    prefix, project = settings.topic_prefix, plan.project
    return [worker_group(prefix, project, role, name) for name in exactly_once if role == "scoring"]


def _least(operations: _Operations) -> _Operations:
    """Without what others imply."""
    return operations - _SEE if operations & {"Read", "Write"} else operations
