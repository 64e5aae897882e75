"""Where a view's rows go besides the store: the tag `streamsvc.updates` names a topic, and
`streamsvc.updates_per` says what has a record there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from streamsvc.definitions.plan import Service, Source, Updates, View
from streamsvc.definitions.route import TAG_PREFIX
from streamsvc.definitions.validate import nearest
from streamsvc.events.dead_letters import dead_topic

__all__ = ["UPDATES", "UPDATES_PER", "check_updates", "parse_updates"]

UPDATES: Final = "updates"
UPDATES_PER: Final = "updates_per"
_EVENT = "event"
_PER = ("row", _EVENT)
_TAG: Final = f"tag '{TAG_PREFIX}{UPDATES}'"
_TAG_PER: Final = f"tag '{TAG_PREFIX}{UPDATES_PER}'"
_TOPIC: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}")


def parse_updates(what: str, tags: Mapping[str, str], mistakes: list[str]) -> Updates | None:
    """What the tags say, None without a topic; appends a mistake for what they cannot be."""
    topic, per = tags.get(TAG_PREFIX + UPDATES), tags.get(TAG_PREFIX + UPDATES_PER)
    if per is not None and per not in _PER:
        mistakes.append(f"{what}: {_TAG_PER} is {per!r}; {nearest(per, _PER)}")
    if topic is None:
        if per is not None:
            mistakes.append(f"{what}: has {_TAG_PER}, but no topic; add {_TAG}.")
        return None
    if not _TOPIC.fullmatch(topic):
        mistakes.append(
            f"{what}: {_TAG} is {topic!r}, which cannot be a topic's name; use up to 249 letters, "
            "digits, '.', '_' and '-'."
        )
        return None
    return Updates(topic, each_event=per == _EVENT)


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
        what, topic = f"StreamFeatureView {view.name!r}", view.updates.topic
        if topic in taken:
            mistakes.append(f"{what}: {_TAG} is {topic!r}, {taken[topic]}; give it another one.")
        taken[topic] = f"that of {what}"
    return mistakes
