"""What a feature worker runs: the plan's views with their incarnations, topics and layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from streamsvc.definitions.plan import Plan, Source, View
from streamsvc.features.rows import column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.settings import Settings
from streamsvc.state.incarnations import Claim, Identity, decide
from streamsvc.state.topics import (
    DEAD_LETTER_CONFIG,
    LOG_CONFIG,
    SHUFFLE_CONFIG,
    TABLE_CONFIG,
    InternalTopics,
)
from streamsvc.store.row import RowLayout
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import read_to_end

__all__ = ["RunningView", "Topology", "prepare_topology"]

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

    Missing event topics are created with `topic_partitions` partitions, so that a worker may be
    started before its first producer.
    """
    admin = Admin(settings)
    topics = InternalTopics(settings.topic_prefix, plan.project)
    sources = {view.source.topic: view.source for view in plan.views}
    wanted = [TopicSpec(t, settings.topic_partitions) for t in sources]
    wanted += [
        TopicSpec(topics.dead(t), settings.topic_partitions, DEAD_LETTER_CONFIG) for t in sources
    ]
    wanted += [TopicSpec(t, 1, TABLE_CONFIG) for t in (topics.control, topics.progress)]
    admin.ensure(wanted)
    identities = {}
    for view in plan.views:
        topic_id = admin.topic_id(view.source.topic)
        groups = settings.key_groups if view.shuffled else admin.partitions(view.source.topic)
        identities[view.name] = Identity(topic_id, groups, view.definition_hash)
        if view.shuffled:
            identities[_shuffle_name(view)] = Identity(topic_id, groups, "")
    numbers = await _incarnations(settings, topics.control, identities)
    running = tuple(_running(view, numbers, topics) for view in plan.views)
    internal = []
    for each in running:
        states = identities[each.view.name].partitions
        internal.append(TopicSpec(each.changelog, states, LOG_CONFIG))
        if each.shuffle is not None:
            internal.append(TopicSpec(each.shuffle, states, SHUFFLE_CONFIG))
    admin.ensure(internal)
    return Topology(plan.project, topics, running, sources)


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


async def _claims(settings: Settings, control: str) -> Sequence[Claim]:
    claims: list[Claim] = []
    async for chunk in read_to_end(settings, control, {0: 0}):
        for i in range(len(chunk)):
            key, value = chunk.key(i), chunk.value(i)
            if key is not None and value is not None and key.startswith(b"incarnation/"):
                claims.append(msgspec.json.decode(value, type=Claim))
    return claims
