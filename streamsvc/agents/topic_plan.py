"""Which topics a project needs, and as what: the one list that everything else goes by.

Workers, `streamsvc topics` and the demo take their topics from here. Changelogs and shuffles carry
an incarnation in their names, so they are known only once the incarnations are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamsvc.definitions.plan import Plan, Service, Source, View
from streamsvc.events.dead_letters import dead_topic
from streamsvc.settings import Settings
from streamsvc.state.topics import (
    DEAD_LETTER_CONFIG,
    LOG_CONFIG,
    SHUFFLE_CONFIG,
    TABLE_CONFIG,
    InternalTopics,
    served_topic,
)
from streamsvc.transport.admin import TopicSpec

__all__ = [
    "ROLES",
    "PlannedTopic",
    "Role",
    "archive_topics",
    "named_topics",
    "rollout_topic",
    "rollout_topics",
    "service_topics",
    "source_topics",
    "specs",
    "state_topics",
    "view_topics",
]

Role: TypeAlias = Literal[
    "events",
    "requests",
    "dead letters",
    "updates",
    "predictions",
    "served log",
    "labels",
    "rollout",
    "control",
    "progress",
    "changelog",
    "shuffle",
]

ROLES: dict[Role, frozenset[str]] = {
    # What must be as planned, or state would be lost or partitions mixed up. All else is advice.
    "events": frozenset(),
    "requests": frozenset(),
    "dead letters": frozenset(),
    "updates": frozenset(),
    "predictions": frozenset(),
    "served log": frozenset(),
    "labels": frozenset(),
    "rollout": frozenset({"cleanup.policy"}),
    "control": frozenset({"cleanup.policy"}),
    "progress": frozenset({"cleanup.policy"}),
    "changelog": frozenset({"partitions", "cleanup.policy", "retention.ms", "retention.bytes"}),
    "shuffle": frozenset({"partitions", "cleanup.policy"}),
}


@dataclass(frozen=True, slots=True)
class PlannedTopic:
    """A topic that a project needs, as it is made where it is missing."""

    role: Role
    spec: TopicSpec

    @property
    def name(self) -> str:
        """The topic's name."""
        return self.spec.name


def specs(topics: Iterable[PlannedTopic]) -> list[TopicSpec]:
    """How these topics are made."""
    return [topic.spec for topic in topics]


def source_topics(settings: Settings, views: Iterable[View]) -> list[PlannedTopic]:
    """What these views read, missing or not: a worker may be started before its first producer."""
    topics = dict.fromkeys(view.source.topic for view in views)
    return [_records("events", topic, settings) for topic in topics]


def view_topics(settings: Settings, plan: Plan) -> list[PlannedTopic]:
    """What feature workers need before they know the incarnations of their views."""
    internal = InternalTopics(settings.topic_prefix, plan.project)
    events = source_topics(settings, plan.views)
    return [
        *events,
        *(_dead_letters(topic.name, settings) for topic in events),
        *(_updates(view.updates.topic, settings) for view in plan.views if view.updates),
        PlannedTopic("control", TopicSpec(internal.control, 1, TABLE_CONFIG)),
        PlannedTopic("progress", TopicSpec(internal.progress, 1, TABLE_CONFIG)),
    ]


def service_topics(settings: Settings, project: str, service: Service) -> list[PlannedTopic]:
    """What the scoring workers of a service with a route read and write, but for event topics."""
    route = service.route
    assert route is not None
    topics = [
        _records("requests", route.requests, settings),
        _dead_letters(route.requests, settings),
        _records("predictions", route.predictions, settings),
        rollout_topic(settings, project),
    ]
    if settings.served_log:
        topics.append(_records("served log", served_topic(service.name), settings))
    return topics


def rollout_topic(settings: Settings, project: str) -> PlannedTopic:
    """Where it is said which model versions answer."""
    name = InternalTopics(settings.topic_prefix, project).rollout
    return PlannedTopic("rollout", TopicSpec(name, 1, TABLE_CONFIG))


def rollout_topics(settings: Settings, plan: Plan) -> list[PlannedTopic]:
    """What rollout workers read and write."""
    found = []
    for service in plan.services:
        if service.route is not None:
            found.append(_records("served log", served_topic(service.name), settings))
            if service.route.labels is not None:
                found.append(_records("labels", service.route.labels, settings))
    return [*found, rollout_topic(settings, plan.project)] if found else []


def archive_topics(settings: Settings, plan: Plan, sources: Iterable[Source]) -> list[PlannedTopic]:
    """What the archive workers of these sources read, and the dead letters that nobody else sends.

    Feature workers send those of what views read, and scoring workers those of requests.
    """
    others = {view.source.topic for view in plan.views}
    others |= {service.route.requests for service in plan.services if service.route is not None}
    found = []
    for topic in dict.fromkeys(source.topic for source in sources):
        found.append(_records("events", topic, settings))
        if topic not in others:
            found.append(_dead_letters(topic, settings))
    return found


def named_topics(settings: Settings, plan: Plan) -> list[PlannedTopic]:
    """Everything but changelogs and shuffles, each once, in the order in which records travel.

    A topic of events that is one of requests, too, stands there with the first role.
    """
    found = view_topics(settings, plan)
    for service in plan.services:
        if service.route is not None:
            found += service_topics(settings, plan.project, service)
    if settings.served_log:
        found += rollout_topics(settings, plan)
    archived = [source for source in plan.sources if source.archive_is_directory]
    found += archive_topics(settings, plan, archived)
    each = {topic.name: topic for topic in reversed(found)}
    order = list(ROLES)
    return sorted(each.values(), key=lambda topic: (order.index(topic.role), topic.name))


def state_topics(changelog: str, shuffle: str | None, partitions: int) -> list[PlannedTopic]:
    """The logs of one view's state, in one incarnation, with so many state partitions."""
    topics = [PlannedTopic("changelog", TopicSpec(changelog, partitions, LOG_CONFIG))]
    if shuffle is not None:
        topics.append(PlannedTopic("shuffle", TopicSpec(shuffle, partitions, SHUFFLE_CONFIG)))
    return topics


def _records(role: Role, topic: str, settings: Settings) -> PlannedTopic:
    return PlannedTopic(role, TopicSpec(topic, settings.topic_partitions))


def _updates(topic: str, settings: Settings) -> PlannedTopic:
    """A row of long texts makes a longer record than an event may be."""
    spec = TopicSpec(topic, settings.topic_partitions, DEAD_LETTER_CONFIG)
    return PlannedTopic("updates", spec)


def _dead_letters(topic: str, settings: Settings) -> PlannedTopic:
    spec = TopicSpec(dead_topic(topic), settings.topic_partitions, DEAD_LETTER_CONFIG)
    return PlannedTopic("dead letters", spec)
