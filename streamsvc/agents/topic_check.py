"""Topics as they are, held against topics as they are planned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamsvc.agents.topic_plan import ROLES, PlannedTopic
from streamsvc.errors import ConfigurationError
from streamsvc.transport.admin import Admin, TopicState

__all__ = ["Difference", "differences", "ensure_topics"]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not as planned: `partitions`, or one of Kafka's topic settings."""

    what: str
    wanted: str
    found: str
    essential: bool
    """Going on would lose state or mix up partitions."""


def differences(
    topic: PlannedTopic, state: TopicState, config: Mapping[str, str]
) -> list[Difference]:
    """What of a topic that exists is not as planned.

    Partitions count only where they must be a certain number: whoever makes an event topic chooses
    how many. A setting that `config` does not tell is not judged.
    """
    essential = ROLES[topic.role]
    found = {"partitions": str(state.partitions), **config}
    wanted = dict(topic.spec.config)
    if "partitions" in essential:
        wanted["partitions"] = str(topic.spec.partitions)
    return [
        Difference(what, value, found[what], what in essential)
        for what, value in wanted.items()
        if what in found and found[what] != value
    ]


def ensure_topics(admin: Admin, topics: Sequence[PlannedTopic]) -> dict[str, TopicState]:
    """Make the topics that are missing; returns all of them.

    Raises ConfigurationError for one that is there, but on which state would be lost.
    """
    states = admin.ensure([topic.spec for topic in topics])
    configs = admin.configs([topic.name for topic in topics if ROLES[topic.role]])
    for topic in topics:
        for wrong in differences(topic, states[topic.name], configs.get(topic.name, {})):
            if wrong.essential:
                raise ConfigurationError(_sentence(topic, wrong))
    return states


def _sentence(topic: PlannedTopic, wrong: Difference) -> str:
    said = f"Topic {topic.name!r} ({topic.role}) has {wrong.what} {wrong.found}, and needs "
    if wrong.what == "partitions":
        return (
            f"{said}{wrong.wanted}. It was made by hand with another number: delete it, and let "
            "the worker or `streamsvc topics create` make it."
        )
    return (
        f"{said}{wrong.wanted}, or state would be lost. Set it: kafka-configs.sh --alter "
        f"--entity-type topics --entity-name {topic.name} --add-config {wrong.what}={wrong.wanted}"
    )
