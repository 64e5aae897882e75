"""What happens to chunks on the engine thread: decode, judge, apply, or offer to the shuffle.

Everything here runs on one thread, so state needs no locks. Chunks of an earlier assignment are
void: after a rebalance each partition is read again from where its state ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from streamsvc.agents.dead_letter_sender import DeadLetterSender
from streamsvc.agents.holdings import Holdings
from streamsvc.agents.shuffle_sender import Offer
from streamsvc.agents.topology import RunningView, Topology
from streamsvc.state.blocks import unpack_block
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.state.shuffle import Section, Span, decode_shuffle
from streamsvc.state.source import Events, rows_together
from streamsvc.transport.chunk import Chunk

__all__ = ["Intake"]

SMALL_ROWS = 1_024
"""Chunks of one topic that have no more records than this between them are taken together."""


@dataclass(frozen=True, slots=True)
class _Read:
    """A chunk of an event topic, judged."""

    chunk: Chunk
    events: Events

    @property
    def appended_ms(self) -> int:
        """Kafka timestamp of the oldest record; 0 without records."""
        return int(self.chunk.timestamps.min()) if len(self.chunk) else 0


class Intake:
    """Applies chunks to what the worker holds."""

    def __init__(self, topology: Topology, holdings: Holdings, dead: DeadLetterSender) -> None:
        self.generation = -1
        """Consumer group generation whose chunks count."""
        self._topology = topology
        self._holdings = holdings
        self._dead = dead
        self._offers: defaultdict[str, list[Offer]] = defaultdict(list)

    def take(self, chunks: Sequence[Chunk], now_ms: int) -> list[bool]:
        """Chunks of any topics that the worker reads, in log order within each partition.

        Says of each whether it counted: it does not if it was void or known already.
        """
        counted = []
        read: defaultdict[str, list[_Read]] = defaultdict(list)
        for chunk in chunks:
            if chunk.topic in self._topology.sources:
                found = self._read(chunk)
                if found is not None:
                    read[chunk.topic].append(found)
                counted.append(found is not None)
            else:
                counted.append(self._shuffled(chunk, now_ms))
        for topic, parts in read.items():
            for part in parts:
                self._apply_direct(part, now_ms)
            for together in _together(parts):
                self._offer_shuffled(topic, together)
            for part in parts:
                if part.events.rejects:
                    self._dead.offer(part.chunk, part.events.rejects)
        return counted

    def offered(self) -> dict[str, list[Offer]]:
        """By event topic, what was offered to the shuffle since the last call."""
        offers, self._offers = self._offers, defaultdict(list)
        return offers

    def _read(self, chunk: Chunk) -> _Read | None:
        """A chunk of an event topic; None if it is void or known already."""
        source = self._holdings.sources.get((chunk.topic, chunk.partition))
        if source is None or chunk.generation != self.generation:
            return None
        unread = source.unread(chunk)
        return None if unread is None else _Read(unread, source.read(unread))

    def _apply_direct(self, part: _Read, now_ms: int) -> None:
        events = part.events
        for running in self._topology.direct(part.chunk.topic):
            _, state = self._holdings.views[(running.view.name, part.chunk.partition)]
            if state.applied >= events.end:
                continue  # this view is ahead of another one that the source was rewound for
            rows, rejects = events.rows_for(running.view, state.applied)
            events.rejects.extend(rejects)
            state.apply_events(events, rows, now_ms, part.appended_ms)

    def _offer_shuffled(self, topic: str, parts: list[_Read]) -> None:
        views = self._topology.shuffled(topic)
        offered = self._holdings.offered
        if all(
            offered[(v.view.name, p.chunk.partition)] <= p.events.start
            for p in parts
            for v in views
        ):
            self._offer_together(topic, views, parts)
            return
        for part in parts:  # some view has seen a part of this: after a restart
            self._offer_rest(topic, views, part)

    def _offer_together(
        self, topic: str, views: Sequence[RunningView], parts: Sequence[_Read]
    ) -> None:
        found = rows_together([v.view for v in views], [p.events for p in parts]) if views else []
        sections, progress = [], {}
        for running, (rows, rejects) in zip(views, found, strict=True):
            spans: dict[int, Span] = {}
            for part, refused in zip(parts, rejects, strict=True):
                part.events.rejects.extend(refused)
                span = _span(part, part.events.start)
                earlier = spans.get(span.partition)
                spans[span.partition] = span if earlier is None else earlier.then(span)
                key = ProgressKey(running.view.name, running.incarnation, span.partition)
                progress[key] = _progress(part.events)
                self._holdings.offered[(running.view.name, span.partition)] = span.end
            name, incarnation = running.view.name, running.incarnation
            sections.append(Section(name, incarnation, tuple(spans.values()), rows))
        if sections:
            self._offers[topic].append(Offer(sections, progress))

    def _offer_rest(self, topic: str, views: Sequence[RunningView], part: _Read) -> None:
        """A chunk for the views that have not seen all of it."""
        events = part.events
        for running in views:
            held = (running.view.name, part.chunk.partition)
            since = self._holdings.offered[held]
            if since >= events.end:
                continue
            self._holdings.offered[held] = events.end
            rows, rejects = events.rows_for(running.view, since)
            events.rejects.extend(rejects)
            name, incarnation = running.view.name, running.incarnation
            span = _span(part, max(since, events.start))
            key = ProgressKey(name, incarnation, part.chunk.partition)
            section = Section(name, incarnation, (span,), rows)
            self._offers[topic].append(Offer([section], {key: _progress(events)}))

    def _shuffled(self, chunk: Chunk, now_ms: int) -> bool:
        """A chunk of a shuffle topic."""
        readers = self._topology.readers_of(chunk.topic)
        held = [self._holdings.views.get((each.view.name, chunk.partition)) for each in readers]
        states = [entry[1] for entry in held if entry is not None]
        if not states or chunk.generation != self.generation:
            return False
        unread = chunk.since(min(state.applied for state in states))
        records: list[tuple[int, list[Section]]] = []
        for i, offset in enumerate(unread.offsets.tolist()):
            value = unread.value(i)
            if value is not None:
                records.append((offset, decode_shuffle(unpack_block(value))))
        for state in states:
            if state.applied >= chunk.next_offset:
                continue  # this view is ahead of another one that shares its log
            sections = [
                section
                for offset, found in records
                if offset >= state.applied
                for section in found
                if section.view == state.view.name
            ]
            state.apply_shuffled(sections, chunk.next_offset, now_ms)
        return True


def _together(parts: list[_Read]) -> Iterator[list[_Read]]:
    """All at once if they are small, else one by one."""
    if sum(len(part.chunk) for part in parts) <= SMALL_ROWS:
        yield parts
    else:
        yield from ([part] for part in parts)


def _span(part: _Read, start: int) -> Span:
    events, clock = part.events, part.events.clock
    return Span(part.chunk.partition, start, events.end, clock.ms, clock.driven, part.appended_ms)


def _progress(events: Events) -> Progress:
    return Progress(events.end, events.watermark, events.clock.ms, events.clock.driven)
