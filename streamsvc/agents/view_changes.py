"""What feature workers will do with views after `feast apply`: keep, rebuild, begin, drop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from streamsvc.agents.claims import read_claims, retired
from streamsvc.agents.identities import identities
from streamsvc.definitions.plan import Plan
from streamsvc.settings import Settings
from streamsvc.state.incarnations import Claim, Identity, newest_claim
from streamsvc.state.topics import InternalTopics
from streamsvc.transport.admin import Admin

__all__ = ["Action", "ViewChange", "view_changes"]

Action: TypeAlias = Literal["keep", "rebuild", "new", "drop"]


@dataclass(frozen=True, slots=True)
class ViewChange:
    """One view and what becomes of it."""

    view: str
    action: Action
    why: str
    """Empty for a view that is kept."""


async def view_changes(settings: Settings, wanted: Plan, applied: Plan | None) -> list[ViewChange]:
    """The views of the wanted plan, then those that only the applied one has; changes nothing.

    A view is kept if its newest incarnation was counted for the same topic, state partitions and
    definition. Raises UnavailableError if Kafka does not answer.
    """
    control = InternalTopics(settings.topic_prefix, wanted.project).control
    topics = {view.source.topic for view in wanted.views}
    states = Admin(settings).describe([control, *sorted(topics)])
    claims = await read_claims(settings, control) if control in states else ()
    changes = []
    for view in wanted.views:
        identity = identities(settings, wanted, states)[view.name]
        changes.append(_change(view.name, identity, newest_claim(view.name, claims)))
    kept = {view.name for view in wanted.views}
    gone = sorted(view.name for view in (applied.views if applied else ()) if view.name not in kept)
    return changes + [ViewChange(name, "drop", "no longer defined") for name in gone]


def _change(name: str, identity: Identity, claim: Claim | None) -> ViewChange:
    if claim is None:
        return ViewChange(name, "new", "no worker has run it yet")
    if retired(claim):
        return ViewChange(name, "new", "it was removed, and its rows are gone")
    if claim.digest == identity.digest:
        return ViewChange(name, "keep", "")
    why = []
    if claim.definition_hash != identity.definition_hash:
        why.append("its definition changed")
    if claim.topic_id != identity.topic_id:
        why.append("its topic is missing" if not identity.topic_id else "its topic is another one")
    if claim.partitions != identity.partitions:
        why.append(f"{identity.partitions} state partitions instead of {claim.partitions}")
    return ViewChange(name, "rebuild", ", ".join(why))
