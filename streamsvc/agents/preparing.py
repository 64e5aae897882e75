"""Before a worker runs: incarnations are agreed on, and every topic that is missing is created."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import structlog

from streamsvc.agents.claims import Control, agree, read_claims, read_control, retired
from streamsvc.agents.identities import identities, key_name, shared_names, shuffle_name
from streamsvc.agents.start_position import start_text, starts_of
from streamsvc.agents.topic_check import ensure_topics
from streamsvc.agents.topic_plan import state_topics, view_topics
from streamsvc.agents.topic_watch import grown
from streamsvc.agents.topology import RunningView, Topology, logs_of_state, running_view
from streamsvc.definitions.plan import Plan, View
from streamsvc.errors import ConfigurationError, IntegrityError
from streamsvc.settings import Settings
from streamsvc.state.incarnations import Claim, Identity, newest_claim, replaces_rows
from streamsvc.state.topics import InternalTopics
from streamsvc.store.client import connect
from streamsvc.store.row_store import PackedRowStore, RowStore
from streamsvc.transport.admin import Admin, TopicState

__all__ = ["PreparedView", "prepare_topology", "prepare_view"]

log = structlog.get_logger(__name__)


async def prepare_topology(
    settings: Settings, plan: Plan, *, running: bool = False, rows: RowStore | None = None
) -> Topology:
    """Agree on incarnations and create every topic that is missing.

    `running` says that readers are being served, so that whatever is claimed now must not be seen
    before it has caught up. That is so without it, too, for all but the first views of a topic.
    `rows` is where rows are, if it is not the store that the settings name.
    Raises ConfigurationError for a topic that may not be created, or is not as it has to be.
    Also where there is nothing to compute.
    """
    if not plan.views:
        raise ConfigurationError(
            f"Project {plan.project!r} has no StreamFeatureView: a feature worker has nothing to "
            "compute. Add one over a KafkaSource and `feast apply`; a service of batch views alone "
            "needs a scoring worker only."
        )
    admin = Admin(settings)
    topics = InternalTopics(settings.topic_prefix, plan.project)
    states = ensure_topics(admin, view_topics(settings, plan))
    wanted = identities(settings, plan, states)
    claims = await read_claims(settings, topics.control)
    _refuse_grown(admin, plan, wanted, claims)
    _forget_old_topics(settings, plan, wanted, claims, rows)
    by_name = {view.name: view for view in plan.views}

    def complete(claim: Claim, before: Sequence[Claim]) -> Claim:
        view = by_name.get(claim.view)
        if view is None:
            return claim
        return msgspec.structs.replace(
            claim,
            quiet=running or replaces_rows(claim.view, claim.topic_id, before),
            begins=_shuffle_ends(admin, topics, view, wanted, before),
            start=start_text(view.source),
            starts=starts_of(admin, view, claim.topic_id, before),
            topic_begins=admin.start_offsets(view.source.topic),
        )

    newest = await agree(settings, topics.control, wanted, complete)
    control = await read_control(settings, topics.control)
    numbers = {name: claim.number for name, claim in newest.items()}
    views = tuple(
        replace(
            running_view(view, numbers, topics),
            quiet=control.quiet(newest[view.name]),
            begins=newest[view.name].begins,
            starts=newest[view.name].starts,
            topic_begins=newest[view.name].topic_begins,
        )
        for view in plan.views
    )
    ensure_topics(admin, logs_of_state(views, wanted))
    sources = {view.source.topic: view.source for view in plan.views}
    return Topology(
        plan.project,
        topics,
        views,
        sources,
        {topic: states[topic] for topic in sources},
        {topic: states[topics.dead(topic)].partitions for topic in sources},
        {v.updates.topic: states[v.updates.topic].partitions for v in plan.views if v.updates},
        _gone(plan, control),
    )


@dataclass(frozen=True, slots=True)
class PreparedView:
    """A view whose next incarnation may be built: what it reads is there and agreed on."""

    view: View
    topics: InternalTopics
    source: TopicState
    identity: Identity
    _numbers: Mapping[str, int]

    def stage(self, settings: Settings, number: int) -> RunningView:
        """The view in that incarnation, with the logs of its state."""
        running = running_view(self.view, {**self._numbers, self.view.name: number}, self.topics)
        logs = state_topics(running.changelog, running.shuffle, self.identity.partitions)
        ensure_topics(Admin(settings), logs)
        return running


async def prepare_view(settings: Settings, plan: Plan, view: View) -> PreparedView:
    """Agree on what a view's incarnations stand on, and create every topic that is missing.

    Nothing is claimed for the view itself. Raises as `prepare_topology` does.
    """
    admin = Admin(settings)
    topics = InternalTopics(settings.topic_prefix, plan.project)
    states = ensure_topics(admin, view_topics(settings, plan))
    wanted = identities(settings, plan, states)
    _refuse_grown(admin, plan, wanted, await read_claims(settings, topics.control))
    shared = {name: wanted[name] for name in shared_names(view)}
    agreed = await agree(settings, topics.control, shared)
    numbers = {name: claim.number for name, claim in agreed.items()}
    return PreparedView(view, topics, states[view.source.topic], wanted[view.name], numbers)


def _shuffle_ends(
    admin: Admin,
    topics: InternalTopics,
    view: View,
    wanted: Mapping[str, Identity],
    claims: Sequence[Claim],
) -> dict[int, int]:
    """Where the shuffle of a view ends, if it is one that ran before."""
    if not view.shuffled:
        return {}
    held = newest_claim(shuffle_name(view), claims)
    if held is None or held.digest != wanted[shuffle_name(view)].digest:
        return {}
    shuffle = topics.shuffle(view.source.name, held.number)
    return admin.end_offsets(shuffle) if admin.exists(shuffle) else {}


def _gone(plan: Plan, control: Control) -> dict[str, int]:
    """Views of which something may be left in the store, though the plan has them no longer."""
    defined = {view.name for view in plan.views}
    names = {claim.view for claim in control.claims if "/" not in claim.view} - defined
    newest = [newest_claim(name, control.claims) for name in sorted(names)]
    return {claim.view: claim.number for claim in newest if claim and not retired(claim)}


def _refuse_grown(
    admin: Admin, plan: Plan, wanted: Mapping[str, Identity], claims: Sequence[Claim]
) -> None:
    """Raise IntegrityError for a source that declares its key and has other partitions than before.

    Unless nothing was ever written to it: then the promise may be true of all that comes.
    """
    for source in {view.source.name: view.source for view in plan.views}.values():
        identity = wanted.get(key_name(source))
        held = newest_claim(key_name(source), claims)
        if identity is None or held is None or held.topic_id != identity.topic_id:
            continue
        if held.partitions != identity.partitions and any(admin.end_offsets(source.topic).values()):
            raise IntegrityError(grown(source, held.partitions, identity.partitions))


def _forget_old_topics(
    settings: Settings,
    plan: Plan,
    wanted: Mapping[str, Identity],
    claims: Sequence[Claim],
    rows: RowStore | None,
) -> None:
    """Delete the rows of views whose topic was made anew: entities that it does not name are gone.

    Before the new incarnation is claimed, so that it is done again should we not get that far.
    """
    for view in plan.views:
        held = newest_claim(view.name, claims)
        if held is None or not held.topic_id:
            continue  # its rows are gone, or stay until those of the next incarnation are there
        if held.topic_id != wanted[view.name].topic_id:
            rows = rows or PackedRowStore(connect(settings), plan.project)
            deleted = rows.delete_older(view.name, held.number + 1)
            topic = view.source.topic
            log.info("topic_made_anew", view=view.name, topic=topic, rows_deleted=deleted)
