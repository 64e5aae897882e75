"""What a feature worker runs: the plan's views with their incarnations, topics and layouts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from streamsvc.agents.identities import shuffle_name
from streamsvc.agents.topic_plan import PlannedTopic, state_topics
from streamsvc.definitions.plan import Source, View
from streamsvc.features.rows import column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.state.incarnations import Identity
from streamsvc.state.partition import ViewPartition
from streamsvc.state.topics import InternalTopics
from streamsvc.store.row import RowLayout
from streamsvc.transport.admin import TopicState

__all__ = ["RunningView", "States", "Topology", "ViewKey", "logs_of_state", "running_view"]

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
    topic_begins: Mapping[int, int] = field(default_factory=dict)
    """Source partition -> first offset that the topic still had when the view was claimed; empty
    where it was an older release that claimed it."""

    @property
    def key(self) -> ViewKey:
        """Name and incarnation: while a view is rebuilt, two of a name run."""
        return self.view.name, self.incarnation

    @property
    def log(self) -> str:
        """The topic whose partitions its state is kept by."""
        return self.shuffle or self.view.source.topic


States: TypeAlias = dict[tuple[ViewKey, int], tuple[RunningView, ViewPartition]]
"""(view, partition) -> the view, and its state there."""


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
    update_partitions: Mapping[str, int] = field(default_factory=dict)
    """Topic of updates -> its partitions."""
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
        updates = {each.view.name: each.view.updates for each in self.views}
        keys = {each.key for each in self.views}
        older = [
            replace(each, view=replace(each.view, updates=updates[each.view.name]))
            for each in before.views
            if each.key not in keys and logs.get(each.view.name) == each.log
        ]
        return replace(self, views=(*self.views, *older))

    def later(self, running: RunningView) -> bool:
        """Whether a later incarnation of this view runs, too."""
        name, number = running.key
        return any(v.view.name == name and v.incarnation > number for v in self.views)


def running_view(view: View, numbers: Mapping[str, int], topics: InternalTopics) -> RunningView:
    """A view in the incarnations of these numbers, by what they are counted under."""
    incarnation = numbers[view.name]
    shuffle = None
    if view.shuffled:
        shuffle = topics.shuffle(view.source.name, numbers[shuffle_name(view)])
    return RunningView(
        view,
        incarnation,
        WindowSpec.of(view.aggregates, column_types(view)),
        RowLayout({name: view.feature_types[name] for name in view.features}),
        topics.changelog(view.name, incarnation),
        shuffle,
    )


def logs_of_state(
    running: Sequence[RunningView], wanted: Mapping[str, Identity]
) -> list[PlannedTopic]:
    """Changelogs and shuffles, each once."""
    found: dict[str, PlannedTopic] = {}
    for each in running:
        partitions = wanted[each.view.name].partitions
        for topic in state_topics(each.changelog, each.shuffle, partitions):
            found.setdefault(topic.name, topic)
    return list(found.values())
