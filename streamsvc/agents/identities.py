"""What incarnations are counted for, and under which names.

Those of a view count under its own name. What the views of a source share, its shuffle and the
promise of its key, counts under a name with a slash, which no view can have.
"""

from __future__ import annotations

from collections.abc import Mapping

from streamsvc.definitions.plan import Plan, Source, View
from streamsvc.settings import Settings
from streamsvc.state.incarnations import Identity
from streamsvc.transport.admin import TopicState

__all__ = ["identities", "key_name", "shared_names", "shuffle_name"]


def identities(
    settings: Settings, plan: Plan, states: Mapping[str, TopicState]
) -> dict[str, Identity]:
    """By view, and by source for shuffles, what its incarnation is counted for.

    An event topic that is not there yet has no identity, and so another one than any before.
    """
    found: dict[str, Identity] = {}
    for view in plan.views:
        state = states.get(view.source.topic)
        topic_id = state.topic_id if state else ""
        partitions = state.partitions if state else settings.topic_partitions
        groups = settings.key_groups if view.shuffled else partitions
        found[view.name] = Identity(topic_id, groups, view.definition_hash)
        if view.shuffled:
            found[shuffle_name(view)] = Identity(topic_id, groups, "")
        if view.source.key_field is not None:
            found[key_name(view.source)] = Identity(topic_id, partitions, view.source.key_field)
    return found


def shared_names(view: View) -> list[str]:
    """What views of one source have in common that incarnations are counted for."""
    declared = [key_name(view.source)] if view.source.key_field is not None else []
    return [*declared, shuffle_name(view)] if view.shuffled else declared


def shuffle_name(view: View) -> str:
    """What the incarnations of a source's shuffle are counted under; no view can be called so."""
    return f"{view.source.name}/shuffle"


def key_name(source: Source) -> str:
    """What the partitions are claimed under that a source's declared key was true of."""
    return f"{source.name}/key"
