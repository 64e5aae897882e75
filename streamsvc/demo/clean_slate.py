"""A demo starts from nothing: new topics, no rows and no markers of an earlier run.

The topics of the flights are made anew under their names. A topic made anew has another identity,
so the feature worker starts every view from the beginning, under a later incarnation.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence

from streamsvc.agents.topic_plan import named_topics
from streamsvc.definitions.plan import Plan
from streamsvc.errors import UnavailableError
from streamsvc.settings import Settings
from streamsvc.state.topics import InternalTopics
from streamsvc.store.client import connect
from streamsvc.store.sweep import delete_project
from streamsvc.transport.admin import Admin

__all__ = ["clean_slate", "dead_letter_topics"]

_KEPT = ("control", "progress")
_POLL_S = 0.05
_KNOWN_EVERYWHERE_S = 30.0


def clean_slate(settings: Settings, plan: Plan) -> list[str]:
    """Remove what an earlier run left, and make the topics that the repo names; returns these.

    No worker of the repo may run. The control topic stays: incarnations only ever grow.
    """
    admin = Admin(settings)
    wanted = [topic.spec for topic in named_topics(settings, plan) if topic.role not in _KEPT]
    named = [each.name for each in wanted]
    existing = admin.topics()
    outdated = [topic for topic in existing if _is_state(topic, settings, plan)]
    before = {topic: admin.topic_id(topic) for topic in named if topic in existing}
    admin.delete([*before, *outdated])
    delete_project(connect(settings), plan.project)
    admin.ensure(wanted)
    _await_new(admin, named, before)
    return named


def dead_letter_topics(settings: Settings, plan: Plan) -> list[str]:
    """Where bad records of the repo's topics go."""
    return [t.name for t in named_topics(settings, plan) if t.role == "dead letters"]


def _is_state(topic: str, settings: Settings, plan: Plan) -> bool:
    """Whether this is the log of some incarnation of one of the repo's views."""
    internal = InternalTopics(settings.topic_prefix, plan.project)
    for view in plan.views:
        for name in (internal.changelog(view.name, 0), internal.shuffle(view.source.name, 0)):
            head, _, tail = name.rpartition(".0.")
            if re.fullmatch(rf"{re.escape(head)}\.\d+\.{tail}", topic):
                return True
    return False


def _await_new(admin: Admin, topics: Sequence[str], before: dict[str, str]) -> None:
    """Return once brokers describe the new topics, not those of the same name before them."""
    deadline = time.monotonic() + _KNOWN_EVERYWHERE_S
    waiting = list(topics)
    while waiting:
        waiting = [
            topic
            for topic in waiting
            if not admin.exists(topic) or admin.topic_id(topic) == before.get(topic)
        ]
        if waiting and time.monotonic() > deadline:
            raise UnavailableError(f"Kafka does not show the new topics {', '.join(waiting)}")
        if waiting:
            time.sleep(_POLL_S)
