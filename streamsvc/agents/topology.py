"""What a feature worker runs: the plan's views with their incarnations, topics and layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import msgspec
import structlog

from streamsvc.agents.claims import Control, agree, read_claims, read_control, retired
from streamsvc.agents.start_position import start_text, starts_of
from streamsvc.agents.topic_check import ensure_topics
from streamsvc.agents.topic_plan import PlannedTopic, named_topics, state_topics, view_topics
from streamsvc.agents.topic_watch import grown
from streamsvc.definitions.plan import Plan, Source, View
from streamsvc.errors import ConfigurationError, IntegrityError
from streamsvc.features.rows import column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.settings import Settings
from streamsvc.state.incarnations import (
    Claim,
    Identity,
    decide,
    newest_claim,
    replaces_rows,
)
from streamsvc.state.topics import InternalTopics
from streamsvc.store.client import connect
from streamsvc.store.row import RowLayout
from streamsvc.store.row_store import PackedRowStore, RowStore
from streamsvc.transport.admin import Admin, TopicState

__all__ = [
    "PreparedView",
    "RunningView",
    "Topology",
    "ViewKey",
    "identities",
    "prepare_topology",
    "prepare_view",
    "standing_views",
    "survey_topics",
]

log = structlog.get_logger(__name__)

ViewKey: TypeAlias = tuple[str, int]
"""View and incarnation."""


@dataclass(frozen=True, slots=True)
class RunningView:
    """One view, ready to run."""

    view: View
    incarnation: int
    spec: WindowSpec
    layout: RowLayout
    changelog: str
    shuffle: str | None
    """The topic that its rows are read from, which all shuffled views of a source share; None for
    a view that reads the source itself."""
    quiet: bool = False
    """Rows may still be waiting until they contain what those of an earlier incarnation do."""
    begins: Mapping[int, int] = field(default_factory=dict)
    """Shuffle partition -> offset before which none of its rows can lie; empty is the beginning."""
    starts: Mapping[int, int] = field(default_factory=dict)
    """Source partition -> offset at which it begins; empty is the beginning."""

    @property
    def key(self) -> ViewKey:
        """Name and incarnation: while a view is rebuilt, two of a name run."""
        return self.view.name, self.incarnation

    @property
    def log(self) -> str:
        """The topic whose partitions its state is kept by."""
        return self.shuffle or self.view.source.topic


@dataclass(frozen=True, slots=True)
class Topology:
    """All views of a project and the topics between them."""

    project: str
    topics: InternalTopics
    views: tuple[RunningView, ...]
    sources: Mapping[str, Source]
    """Event topic -> source."""
    event_topics: Mapping[str, TopicState]
    """Event topic -> what it was when the incarnations were agreed on."""
    dead_partitions: Mapping[str, int]
    """Event topic -> partitions of the topic of its dead letters."""
    gone: Mapping[str, int] = field(default_factory=dict)
    """View that is no longer defined -> its last incarnation, of which something may be left."""

    def direct(self, topic: str) -> list[RunningView]:
        """Views that read this event topic themselves."""
        return [v for v in self.views if v.shuffle is None and v.view.source.topic == topic]

    def shuffled(self, topic: str) -> list[RunningView]:
        """Views whose rows come from this event topic through a shuffle."""
        return [v for v in self.views if v.shuffle is not None and v.view.source.topic == topic]

    def readers_of(self, shuffle: str) -> list[RunningView]:
        """The views that read a shuffle topic."""
        return [v for v in self.views if v.shuffle == shuffle]

    def shuffles(self) -> dict[str, str]:
        """Event topic -> shuffle topic, of those that have one."""
        return {v.view.source.topic: v.shuffle for v in self.views if v.shuffle is not None}

    @property
    def read(self) -> list[str]:
        """Every topic that a worker reads."""
        return [*self.sources, *self.shuffles().values()]

    def after(self, before: Topology) -> Topology:
        """This topology where `before` runs: a view that is still quiet runs beside those that it
        replaces, unless its state is kept by another topic than theirs."""
        logs = {each.view.name: each.log for each in self.views if each.quiet}
        keys = {each.key for each in self.views}
        older = [
            each
            for each in before.views
            if each.key not in keys and logs.get(each.view.name) == each.log
        ]
        return replace(self, views=(*self.views, *older))

    def later(self, running: RunningView) -> bool:
        """Whether a later incarnation of this view runs, too."""
        name, number = running.key
        return any(v.view.name == name and v.incarnation > number for v in self.views)


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
        )

    newest = await agree(settings, topics.control, wanted, complete)
    control = await read_control(settings, topics.control)
    numbers = {name: claim.number for name, claim in newest.items()}
    views = tuple(
        replace(
            _running(view, numbers, topics),
            quiet=control.quiet(newest[view.name]),
            begins=newest[view.name].begins,
            starts=newest[view.name].starts,
        )
        for view in plan.views
    )
    ensure_topics(admin, _logs_of_state(views, wanted))
    sources = {view.source.topic: view.source for view in plan.views}
    return Topology(
        plan.project,
        topics,
        views,
        sources,
        {topic: states[topic] for topic in sources},
        {topic: states[topics.dead(topic)].partitions for topic in sources},
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
        running = _running(self.view, {**self._numbers, self.view.name: number}, self.topics)
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
    shared = {name: wanted[name] for name in _shared(view)}
    agreed = await agree(settings, topics.control, shared)
    numbers = {name: claim.number for name, claim in agreed.items()}
    return PreparedView(view, topics, states[view.source.topic], wanted[view.name], numbers)


def _shared(view: View) -> list[str]:
    """What views of one source have in common that incarnations are counted for."""
    declared = [_key_name(view.source)] if view.source.key_field is not None else []
    return [*declared, _shuffle_name(view)] if view.shuffled else declared


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
    held = newest_claim(_shuffle_name(view), claims)
    if held is None or held.digest != wanted[_shuffle_name(view)].digest:
        return {}
    shuffle = topics.shuffle(view.source.name, held.number)
    return admin.end_offsets(shuffle) if admin.exists(shuffle) else {}


def _gone(plan: Plan, control: Control) -> dict[str, int]:
    """Views of which something may be left in the store, though the plan has them no longer."""
    defined = {view.name for view in plan.views}
    names = {claim.view for claim in control.claims if "/" not in claim.view} - defined
    newest = [newest_claim(name, control.claims) for name in sorted(names)]
    return {claim.view: claim.number for claim in newest if claim and not retired(claim)}


async def survey_topics(settings: Settings, plan: Plan) -> list[PlannedTopic]:
    """Every topic that the plan needs, changing nothing.

    Logs of state stand there under the incarnations that workers would agree on now.
    """
    admin = Admin(settings)
    topics = InternalTopics(settings.topic_prefix, plan.project)
    named = named_topics(settings, plan)
    states = admin.describe([topic.name for topic in named])
    claims = await read_claims(settings, topics.control) if topics.control in states else ()
    wanted = identities(settings, plan, states)
    numbers = {}
    for name, identity in wanted.items():
        verdict = decide(name, identity, claims)
        numbers[name] = verdict.claim.number if verdict.claim else verdict.number or 0
    running = [_running(view, numbers, topics) for view in plan.views]
    return [*named, *_logs_of_state(running, wanted)]


async def standing_views(
    settings: Settings, plan: Plan
) -> tuple[dict[str, RunningView], Mapping[str, Identity]]:
    """Views as workers run them now, and the identities of all; nothing is claimed or created.

    A view that no worker has run as it is defined now is not among them. Raises ConfigurationError
    where no feature worker ever ran.
    """
    topics = InternalTopics(settings.topic_prefix, plan.project)
    states = Admin(settings).describe([view.source.topic for view in plan.views])
    wanted = identities(settings, plan, states)
    claims = await read_claims(settings, topics.control)
    verdicts = {name: decide(name, identity, claims).number for name, identity in wanted.items()}
    numbers = {name: number for name, number in verdicts.items() if number is not None}
    return {
        view.name: _running(view, numbers, topics)
        for view in plan.views
        if view.name in numbers and (not view.shuffled or _shuffle_name(view) in numbers)
    }, wanted


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
            found[_shuffle_name(view)] = Identity(topic_id, groups, "")
        if view.source.key_field is not None:
            found[_key_name(view.source)] = Identity(topic_id, partitions, view.source.key_field)
    return found


def _logs_of_state(
    running: Sequence[RunningView], wanted: Mapping[str, Identity]
) -> list[PlannedTopic]:
    """Changelogs and shuffles, each once."""
    found: dict[str, PlannedTopic] = {}
    for each in running:
        partitions = wanted[each.view.name].partitions
        for topic in state_topics(each.changelog, each.shuffle, partitions):
            found.setdefault(topic.name, topic)
    return list(found.values())


def _shuffle_name(view: View) -> str:
    """What the incarnations of a source's shuffle are counted under; no view can be called so."""
    return f"{view.source.name}/shuffle"


def _key_name(source: Source) -> str:
    """What the partitions are claimed under that a source's declared key was true of."""
    return f"{source.name}/key"


def _refuse_grown(
    admin: Admin, plan: Plan, wanted: Mapping[str, Identity], claims: Sequence[Claim]
) -> None:
    """Raise IntegrityError for a source that declares its key and has other partitions than before.

    Unless nothing was ever written to it: then the promise may be true of all that comes.
    """
    for source in {view.source.name: view.source for view in plan.views}.values():
        identity = wanted.get(_key_name(source))
        held = newest_claim(_key_name(source), claims)
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


def _running(view: View, numbers: Mapping[str, int], topics: InternalTopics) -> RunningView:
    incarnation = numbers[view.name]
    shuffle = None
    if view.shuffled:
        shuffle = topics.shuffle(view.source.name, numbers[_shuffle_name(view)])
    return RunningView(
        view,
        incarnation,
        WindowSpec.of(view.aggregates, column_types(view)),
        RowLayout({name: view.feature_types[name] for name in view.features}),
        topics.changelog(view.name, incarnation),
        shuffle,
    )
