"""Where views read an event partition: with the consumer of the group, or behind it.

What a new or rebuilt view lacks is read beside the consumer, in a lane of its own, until it has
come to where the others are; from there on it rides with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from streamsvc.agents.topology import RunningView, ViewKey
from streamsvc.definitions.plan import Source
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.state.progress import Progress
from streamsvc.state.source import SourcePartition

__all__ = ["Lane", "Lanes", "same_reading"]


@dataclass(slots=True, eq=False)
class Lane:
    """Views that read an event partition together, at one position, by one definition of it."""

    source: SourcePartition
    views: list[RunningView]
    riding: bool
    """Whether it is handed what the group's consumer delivers. One that does not is behind."""
    until: int
    """Where the log ended when the lane began: it rides from there on at the earliest."""

    @property
    def direct(self) -> list[RunningView]:
        """Views whose state is kept by this partition itself."""
        return [view for view in self.views if view.shuffle is None]

    @property
    def shuffled(self) -> list[RunningView]:
        """Views whose rows go to the shuffle."""
        return [view for view in self.views if view.shuffle is not None]


class Lanes:
    """Those of one event partition. The first one rides, and is where the consumer is."""

    def __init__(self) -> None:
        self._lanes: list[Lane] = []

    def __iter__(self) -> Iterator[Lane]:
        return iter(self._lanes)

    @property
    def lead(self) -> SourcePartition:
        """Where the consumer is."""
        return self._lanes[0].source

    @property
    def behind(self) -> list[Lane]:
        """What is read beside the consumer."""
        return [lane for lane in self._lanes if not lane.riding]

    @property
    def riding(self) -> list[RunningView]:
        """Views that are where the consumer is, or ahead."""
        return [view for lane in self._lanes if lane.riding for view in lane.views]

    def join(
        self,
        positions: Sequence[tuple[RunningView, Progress]],
        lead: int,
        until: int,
        described: Source,
        open_: Callable[[Source, Progress], SourcePartition],
    ) -> None:
        """Let views read from their positions on: those before `lead`, where the consumer is or
        will be, behind it. The log ends at `until`. `open_` makes a reader of a definition of the
        topic, of which `described` is the one that holds."""
        for riding in (True, False):
            chosen = [(v, at) for v, at in positions if (at.offset >= lead) == riding]
            for source in _distinct([v.view.source for v, _ in chosen]):
                part = [(v, at) for v, at in chosen if same_reading(v.view.source, source)]
                least = min((at for _, at in part), key=lambda at: at.offset)
                lane = Lane(open_(source, least), [v for v, _ in part], riding, until)
                self._lanes.append(lane)
        self._lanes.sort(key=lambda lane: (not lane.riding, lane.source.next_offset))
        first = self._lanes[0] if self._lanes else None
        if first is None or not first.riding or first.source.next_offset > lead:
            # Nobody rides yet: all that come here are on their way.
            at = Progress(lead, NO_WATERMARK, NO_WATERMARK, False)
            self._lanes.insert(0, Lane(open_(described, at), [], True, 0))
        self._prune()

    def board(self) -> None:
        """Let whatever has reached the consumer ride."""
        if len(self._lanes) == 1:
            return
        for lane in self._lanes[1:]:
            at = lane.source.next_offset
            if lane.riding or at < max(self.lead.next_offset, lane.until):
                continue
            lane.riding = True
            for other in self._lanes:
                if other is lane or not other.riding or not other.views:
                    continue
                ahead = other.source.next_offset > at
                if not ahead and same_reading(other.source.source, lane.source.source):
                    other.views += lane.views
                    lane.views = []
                    break
        self._prune()

    def keep(self, wanted: Callable[[RunningView], bool]) -> None:
        """Let go all other views."""
        for lane in self._lanes:
            lane.views = [view for view in lane.views if wanted(view)]
        self._prune()

    def leave(self, key: ViewKey) -> None:
        """Let go one view."""
        self.keep(lambda view: view.key != key)

    def _prune(self) -> None:
        """An empty lane is of use only where no other rides."""
        full = [lane for lane in self._lanes if lane.views]
        riding = [lane for lane in full if lane.riding]
        first = riding or [next(lane for lane in self._lanes if lane.riding)]
        self._lanes = [*first, *(lane for lane in full if not lane.riding)]


def same_reading(one: Source, other: Source) -> bool:
    """Whether two definitions of a topic make the same events of its records."""
    return (one.schema, one.allowed_lateness_ms, one.max_future_ms, one.key_field) == (
        other.schema,
        other.allowed_lateness_ms,
        other.max_future_ms,
        other.key_field,
    )


def _distinct(sources: Sequence[Source]) -> list[Source]:
    found: list[Source] = []
    for source in sources:
        if not any(same_reading(source, other) for other in found):
            found.append(source)
    return found
