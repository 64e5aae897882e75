"""What a feature worker runs: the plan's views with their incarnations, topics and layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from streamsvc.agents.topic_check import ensure_topics
from streamsvc.agents.topic_plan import PlannedTopic, named_topics, state_topics, view_topics
from streamsvc.definitions.plan import Plan, Source, View
from streamsvc.features.rows import column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.settings import Settings
from streamsvc.state.incarnations import Claim, Identity, decide
from streamsvc.state.topics import InternalTopics
from streamsvc.store.row import RowLayout
from streamsvc.transport.admin import Admin, TopicState
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import read_to_end

__all__ = ["RunningView", "Topology", "claim_times", "prepare_topology", "survey_topics"]

log = structlog.get_logger(__name__)


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


async def prepare_topology(settings: Settings, plan: Plan) -> Topology:
    """Agree on incarnations and create every topic that is missing.

    Raises ConfigurationError for a topic that may not be created, or is not as it has to be.
    """
    admin = Admin(settings)
    topics = InternalTopics(settings.topic_prefix, plan.project)
    states = ensure_topics(admin, view_topics(settings, plan))
    wanted = _identities(settings, plan, states)
    numbers = await _incarnations(settings, topics.control, wanted)
    running = tuple(_running(view, numbers, topics) for view in plan.views)
    ensure_topics(admin, _logs_of_state(running, wanted))
    sources = {view.source.topic: view.source for view in plan.views}
    return Topology(
        plan.project,
        topics,
        running,
        sources,
        {topic: states[topic] for topic in sources},
        {topic: states[topics.dead(topic)].partitions for topic in sources},
    )


async def survey_topics(settings: Settings, plan: Plan) -> list[PlannedTopic]:
    """Every topic that the plan needs, changing nothing.

    Logs of state stand there under the incarnations that workers would agree on now.
    """
    admin = Admin(settings)
    topics = InternalTopics(settings.topic_prefix, plan.project)
    named = named_topics(settings, plan)
    states = admin.describe([topic.name for topic in named])
    claims = await _claims(settings, topics.control) if topics.control in states else ()
    wanted = _identities(settings, plan, states)
    numbers = {}
    for name, identity in wanted.items():
        verdict = decide(name, identity, claims)
        numbers[name] = verdict.claim.number if verdict.claim else verdict.number or 0
    running = [_running(view, numbers, topics) for view in plan.views]
    return [*named, *_logs_of_state(running, wanted)]


def _identities(
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


async def _incarnations(
    settings: Settings, control: str, identities: Mapping[str, Identity]
) -> dict[str, int]:
    """The number of every view's identity, claimed in the control topic where it is new."""
    producer = BatchProducer(settings)
    await producer.start()
    try:
        while True:
            claims = await _claims(settings, control)
            verdicts = {v: decide(v, identity, claims) for v, identity in identities.items()}
            open_claims = [v.claim for v in verdicts.values() if v.claim is not None]
            if not open_claims:
                return {v: verdict.number for v, verdict in verdicts.items() if verdict.number}
            for claim in open_claims:
                log.info("incarnation_claimed", view=claim.view, incarnation=claim.number)
            records = [(c.key, msgspec.json.encode(c), ()) for c in open_claims]
            await (await producer.send(control, 0, records))
    finally:
        await producer.stop()


async def claim_times(settings: Settings, plan: Plan) -> dict[str, int]:
    """View -> when its newest incarnation was claimed, as Kafka timestamp in ms."""
    control = InternalTopics(settings.topic_prefix, plan.project).control
    if not Admin(settings).exists(control):
        return {}
    return {claim.view: ms for claim, ms in await _timed_claims(settings, control)}


async def _claims(settings: Settings, control: str) -> Sequence[Claim]:
    return [claim for claim, _ in await _timed_claims(settings, control)]


async def _timed_claims(settings: Settings, control: str) -> Sequence[tuple[Claim, int]]:
    claims: list[tuple[Claim, int]] = []
    async for chunk in read_to_end(settings, control, {0: 0}):
        for i in range(len(chunk)):
            key, value = chunk.key(i), chunk.value(i)
            if key is not None and value is not None and key.startswith(b"incarnation/"):
                claim = msgspec.json.decode(value, type=Claim)
                claims.append((claim, int(chunk.timestamps[i])))
    return claims
