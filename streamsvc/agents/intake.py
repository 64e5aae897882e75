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
from streamsvc.events.decode import Decoder
from streamsvc.state.events import Events, rows_together
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.state.shuffle import Section, Span
from streamsvc.state.source import read_together
from streamsvc.transport.chunk import Chunk

__all__ = ["Intake", "Taken"]

SMALL_ROWS, SMALL_BYTES = 1_024, 1 << 20
"""Chunks of one topic that have no more records and bytes than this are taken together."""


class Taken(Enum):
    """What a chunk was to us."""

    VOID = 0
    """Of another assignment, or known already: it does not count."""
    KNOWN = 1
    """It counts, and brought nothing that we had not applied before."""
    NEW = 2


@dataclass(frozen=True, slots=True)
class _Unread:
    """A chunk of an event topic that a lane is past, but which is not judged yet."""

    chunk: Chunk
    lane: Lane


@dataclass(frozen=True, slots=True)
class _Read:
    """The same, judged."""

    chunk: Chunk
    events: Events

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
        unread: list[_Unread] = []
        for chunk in chunks:
            if chunk.topic in self._holdings.topology.sources:
                found = self._unread(chunk)
                unread += found or ()
                taken.append(Taken.VOID if found is None else Taken.NEW)
            else:
                taken.append(self._shuffled(chunk, now_ms))
        self._apply(unread, now_ms)
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
        unread: list[_Unread] = []
        for chunk in chunks:
            at = chunk.topic, chunk.partition
            lanes = self._holdings.lanes.get(at)
            for lane in lanes.behind if lanes is not None else ():
                if chunk.first_offset <= lane.source.next_offset:
                    unread += _passed(chunk, lane)
            for state in self._holdings.late_readers(*at):
                if chunk.first_offset <= state.applied < chunk.next_offset:
                    apply_chunk(chunk, [state], now_ms)
        self._apply(unread, now_ms)

    def _apply(self, unread: Sequence[_Unread], now_ms: int) -> None:
        alike: defaultdict[tuple[Decoder, tuple[ViewKey, ...]], list[_Unread]] = defaultdict(list)
        for part in unread:
            alike[part.lane.source.decoder, tuple(v.key for v in part.lane.views)].append(part)
        for parts in (some for found in alike.values() for some in _together(found)):
            lane = parts[0].lane
            events = read_together([(part.lane.source, part.chunk) for part in parts])
            read = [_Read(part.chunk, of) for part, of in zip(parts, events, strict=True)]
            self._apply_direct(lane.direct, read, now_ms)
            self._offer_shuffled(lane.shuffled, read)
            for each in read:
                if each.events.rejects:
                    self._dead.offer(each.chunk, each.events.rejects)

    def offered(self) -> dict[str, list[Offer]]:
        """By event topic, what was offered to the shuffle since the last call."""
        offers, self._offers = self._offers, defaultdict(list)
        return offers

    def _unread(self, chunk: Chunk) -> list[_Unread] | None:
        """A chunk of an event topic; None if it is void or known already."""
        lanes = self._holdings.lanes.get((chunk.topic, chunk.partition))
        if lanes is None or chunk.generation != self.generation:
            return None
        known = chunk.next_offset <= lanes.lead.next_offset
        found = [part for lane in lanes if lane.riding for part in _passed(chunk, lane)]
        return None if known and not found else found

    def _apply_direct(
        self, views: Sequence[RunningView], parts: Sequence[_Read], now_ms: int
    ) -> None:
        for running in views:
            states = [self._holdings.views[running.key, p.chunk.partition][1] for p in parts]
            starts = {part.chunk.partition: part.events.start for part in reversed(parts)}
            if all(s.applied <= starts[s.partition] for s in states):
                found = rows_together(running.view, [part.events for part in parts])
                for i, (part, state) in enumerate(zip(parts, states, strict=True)):
                    part.events.rejects.extend(found.rejects[i])
                    state.apply_events(part.events, found.of(i), now_ms, part.appended_ms)
                continue
            for part, state in zip(parts, states, strict=True):
                if state.applied >= part.events.end:
                    continue  # it is ahead of another view that the source was rewound for
                rows, rejects = part.events.rows_for(running.view, state.applied)
                part.events.rejects.extend(rejects)
                state.apply_events(part.events, rows, now_ms, part.appended_ms)

    def _offer_shuffled(self, views: Sequence[RunningView], parts: Sequence[_Read]) -> None:
        if not views:
            return
        topic, offered = parts[0].chunk.topic, self._holdings.offered
        if all(offered[(v.key, p.chunk.partition)] <= p.events.start for p in parts for v in views):
            self._offer_together(topic, views, parts)
            return
        for part in parts:  # some view has seen a part of this: after a restart
            self._offer_rest(topic, views, part)

    def _offer_together(
        self, topic: str, views: Sequence[RunningView], parts: Sequence[_Read]
    ) -> None:
        sections, progress = [], {}
        for running in views:
            together = rows_together(running.view, [part.events for part in parts])
            spans: dict[int, Span] = {}
            for part, refused in zip(parts, together.rejects, strict=True):
                part.events.rejects.extend(refused)
                span = _span(part, part.events.start)
                earlier = spans.get(span.partition)
                spans[span.partition] = span if earlier is None else earlier.then(span)
                progress[ProgressKey(*running.key, span.partition)] = _progress(part.events)
                self._holdings.offered[(running.key, span.partition)] = span.end
            sections.append(Section(*running.key, tuple(spans.values()), together.rows))
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


def _passed(chunk: Chunk, lane: Lane) -> list[_Unread]:
    """What a lane has not read of a chunk, and goes past; nothing where nobody wants to know."""
    unread = lane.source.unread(chunk)
    if unread is None:
        return []
    lane.source.pass_over(unread)
    return [_Unread(unread, lane)] if lane.views else []


def _together(parts: list[_Unread]) -> Iterator[list[_Unread]]:
    """All at once if they are small, else one by one."""
    rows, nbytes = sum(len(p.chunk) for p in parts), sum(len(p.chunk.data) for p in parts)
    if rows <= SMALL_ROWS and nbytes <= SMALL_BYTES:
        yield parts
    else:
        yield from ([part] for part in parts)


def _span(part: _Read, start: int) -> Span:
    events, clock = part.events, part.events.clock
    return Span(part.chunk.partition, start, events.end, clock.ms, clock.driven, part.appended_ms)


def _progress(events: Events) -> Progress:
    return Progress(events.end, events.watermark, events.clock.ms, events.clock.driven)
