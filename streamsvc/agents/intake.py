"""What happens to chunks on the engine thread: decode, judge, apply, or offer to the shuffle.

Everything here runs on one thread, so state needs no locks. Chunks of an earlier assignment are
void: after a rebalance each partition is read again from where its state ends.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from streamsvc.agents.dead_letter_sender import DeadLetterSender
from streamsvc.agents.holdings import Holdings
from streamsvc.agents.lanes import Lane
from streamsvc.agents.shuffle_reader import apply_chunk, apply_echo
from streamsvc.agents.shuffle_sender import Echo, Offer
from streamsvc.agents.topology import RunningView, ViewKey
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.state.shuffle import Section, Span
from streamsvc.state.source import Events, rows_together
from streamsvc.transport.chunk import Chunk

__all__ = ["Intake", "Taken"]

SMALL_ROWS = 1_024
"""Chunks of one topic that have no more records than this between them are taken together."""


class Taken(Enum):
    """What a chunk was to us."""

    VOID = 0
    """Of another assignment, or known already: it does not count."""
    KNOWN = 1
    """It counts, and brought nothing that we had not applied before."""
    NEW = 2


@dataclass(frozen=True, slots=True)
class _Read:
    """A chunk of an event topic, judged for one lane."""

    chunk: Chunk
    events: Events
    lane: Lane

    @property
    def appended_ms(self) -> int:
        """Kafka timestamp of the oldest record; 0 without records."""
        return int(self.chunk.timestamps.min()) if len(self.chunk) else 0


class Intake:
    """Applies chunks to what the worker holds."""

    def __init__(self, holdings: Holdings, dead: DeadLetterSender) -> None:
        self.generation = -1
        """Consumer group generation whose chunks count."""
        self._holdings = holdings
        self._dead = dead
        self._offers: defaultdict[str, list[Offer]] = defaultdict(list)

    def take(self, chunks: Sequence[Chunk], now_ms: int) -> list[Taken]:
        """Chunks of any topics that the worker reads, in log order within each partition."""
        taken = []
        read: list[_Read] = []
        for chunk in chunks:
            if chunk.topic in self._holdings.topology.sources:
                found = self._read(chunk)
                read += found or ()
                taken.append(Taken.VOID if found is None else Taken.NEW)
            else:
                taken.append(self._shuffled(chunk, now_ms))
        self._apply(read, now_ms)
        return taken

    def hear(self, echoes: Iterable[Echo], now_ms: int) -> bool:
        """Apply records of our own that a state would read next, without the fetch that brings
        them; whether there were any. Where others have written in between, the fetch is awaited.
        """
        heard = False
        for echo in echoes:
            states = self._holdings.readers(echo.topic, echo.group)
            heard |= apply_echo(echo, states, now_ms)
        return heard

    def catch_up(self, chunks: Sequence[Chunk], now_ms: int) -> None:
        """As `take`, of chunks that were read beside the consumer, for whatever is behind it."""
        read: list[_Read] = []
        for chunk in chunks:
            at = chunk.topic, chunk.partition
            lanes = self._holdings.lanes.get(at)
            for lane in lanes.behind if lanes is not None else ():
                if chunk.first_offset <= lane.source.next_offset:
                    read += self._judged(chunk, lane)
            for state in self._holdings.late_readers(*at):
                if chunk.first_offset <= state.applied < chunk.next_offset:
                    apply_chunk(chunk, [state], now_ms)
        self._apply(read, now_ms)

    def _apply(self, read: Sequence[_Read], now_ms: int) -> None:
        together: defaultdict[tuple[str, tuple[ViewKey, ...]], list[_Read]] = defaultdict(list)
        for part in read:
            self._apply_direct(part, now_ms)
            if views := part.lane.shuffled:
                keys = part.chunk.topic, tuple(view.key for view in views)
                together[keys].append(part)
        for (topic, _), parts in together.items():
            for some in _together(parts):
                self._offer_shuffled(topic, some[0].lane.shuffled, some)
        for part in read:
            if part.events.rejects:
                self._dead.offer(part.chunk, part.events.rejects)

    def offered(self) -> dict[str, list[Offer]]:
        """By event topic, what was offered to the shuffle since the last call."""
        offers, self._offers = self._offers, defaultdict(list)
        return offers

    def _read(self, chunk: Chunk) -> list[_Read] | None:
        """A chunk of an event topic; None if it is void or known already."""
        lanes = self._holdings.lanes.get((chunk.topic, chunk.partition))
        if lanes is None or chunk.generation != self.generation:
            return None
        known = chunk.next_offset <= lanes.lead.next_offset
        found = [part for lane in lanes if lane.riding for part in self._judged(chunk, lane)]
        return None if known and not found else found

    def _judged(self, chunk: Chunk, lane: Lane) -> list[_Read]:
        """What a lane has not read of a chunk; nothing where nobody wants to know."""
        unread = lane.source.unread(chunk)
        if unread is None:
            return []
        if not lane.views:
            lane.source.pass_over(unread)
            return []
        return [_Read(unread, lane.source.read(unread), lane)]

    def _apply_direct(self, part: _Read, now_ms: int) -> None:
        events = part.events
        for running in part.lane.direct:
            _, state = self._holdings.views[(running.key, part.chunk.partition)]
            if state.applied >= events.end:
                continue  # this view is ahead of another one that the source was rewound for
            rows, rejects = events.rows_for(running.view, state.applied)
            events.rejects.extend(rejects)
            state.apply_events(events, rows, now_ms, part.appended_ms)

    def _offer_shuffled(self, topic: str, views: Sequence[RunningView], parts: list[_Read]) -> None:
        offered = self._holdings.offered
        if all(offered[(v.key, p.chunk.partition)] <= p.events.start for p in parts for v in views):
            self._offer_together(topic, views, parts)
            return
        for part in parts:  # some view has seen a part of this: after a restart
            self._offer_rest(topic, views, part)

    def _offer_together(
        self, topic: str, views: Sequence[RunningView], parts: Sequence[_Read]
    ) -> None:
        found = rows_together([v.view for v in views], [p.events for p in parts])
        sections, progress = [], {}
        for running, (rows, rejects) in zip(views, found, strict=True):
            spans: dict[int, Span] = {}
            for part, refused in zip(parts, rejects, strict=True):
                part.events.rejects.extend(refused)
                span = _span(part, part.events.start)
                earlier = spans.get(span.partition)
                spans[span.partition] = span if earlier is None else earlier.then(span)
                progress[ProgressKey(*running.key, span.partition)] = _progress(part.events)
                self._holdings.offered[(running.key, span.partition)] = span.end
            sections.append(Section(*running.key, tuple(spans.values()), rows))
        self._offers[topic].append(Offer(sections, progress))

    def _offer_rest(self, topic: str, views: Sequence[RunningView], part: _Read) -> None:
        """A chunk for the views that have not seen all of it."""
        events = part.events
        for running in views:
            held = running.key, part.chunk.partition
            since = self._holdings.offered[held]
            if since >= events.end:
                continue
            self._holdings.offered[held] = events.end
            rows, rejects = events.rows_for(running.view, since)
            events.rejects.extend(rejects)
            span = _span(part, max(since, events.start))
            key = ProgressKey(*running.key, part.chunk.partition)
            section = Section(*running.key, (span,), rows)
            self._offers[topic].append(Offer([section], {key: _progress(events)}))

    def _shuffled(self, chunk: Chunk, now_ms: int) -> Taken:
        """A chunk of a shuffle topic."""
        at = chunk.topic, chunk.partition
        if at not in self._holdings.read or chunk.generation != self.generation:
            return Taken.VOID
        self._holdings.read[at] = max(self._holdings.read[at], chunk.next_offset)
        new = apply_chunk(chunk, self._holdings.readers(*at), now_ms)
        return Taken.NEW if new else Taken.KNOWN


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
