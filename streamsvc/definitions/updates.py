"""Where a view's rows go besides the store: the tag `streamsvc.updates` names a topic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from streamsvc.definitions.plan import Service, Source, View
from streamsvc.definitions.route import TAG_PREFIX
from streamsvc.events.dead_letters import dead_topic

__all__ = ["UPDATES", "check_updates", "parse_updates"]

UPDATES: Final = "updates"
_TAG: Final = f"tag '{TAG_PREFIX}{UPDATES}'"
_TOPIC: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


def parse_updates(what: str, tags: Mapping[str, str], mistakes: list[str]) -> str | None:
    """The tag's topic, None without the tag; appends a mistake if it cannot be one."""
    topic = tags.get(TAG_PREFIX + UPDATES)
    if topic is None or _TOPIC.fullmatch(topic):
        return topic
    mistakes.append(
        f"{what}: {_TAG} is {topic!r}, which cannot be a topic's name; use up to 249 letters, "
        "digits, '.', '_' and '-'."
    )
    return None


def check_updates(
    views: Sequence[View], sources: Iterable[Source], services: Iterable[Service]
) -> list[str]:
    """Mistakes: topics of updates in which something else lies, too."""
    taken = {}
    for source in sources:
        taken[source.topic] = f"the topic of KafkaSource {source.name!r}"
        taken[dead_topic(source.topic)] = f"that of the dead letters of KafkaSource {source.name!r}"
    for service in services:
        if service.route is not None:
            taken[service.route.predictions] = f"where FeatureService {service.name!r} predicts"
    mistakes = []
    for view in views:
        if view.updates is None:
            continue
        what = f"StreamFeatureView {view.name!r}"
        if view.updates in taken:
            mistakes.append(
                f"{what}: {_TAG} is {view.updates!r}, {taken[view.updates]}; give it another one."
            )
        taken[view.updates] = f"that of {what}"
    return mistakes
