"""What happens to a chunk on the engine thread: decode, judge, apply, or hand to the shuffle.

Everything here runs on one thread, so state needs no locks; only what goes to the event loop is
handed over. Chunks of an earlier assignment are void: after a rebalance each partition is read
again from where its state ends.
"""

from __future__ import annotations

from collections.abc import Callable

from streamsvc.agents.dead_letter_sender import DeadLetterSender
from streamsvc.agents.holdings import Holdings
from streamsvc.agents.topology import Topology
from streamsvc.state.blocks import unpack_block
from streamsvc.state.progress import Progress
from streamsvc.state.shuffle import Section, Span, decode_shuffle
from streamsvc.state.source import Events
from streamsvc.transport.chunk import Chunk

__all__ = ["Intake", "Offer"]

Offer = Callable[[str, list[Section], Progress], None]
"""Takes (event topic, sections of one chunk, progress) for the shuffle; called on this thread."""


class Intake:
    """Applies chunks to what the worker holds."""

    def __init__(
        self, topology: Topology, holdings: Holdings, dead: DeadLetterSender, offer: Offer
    ) -> None:
        self.generation = -1
        """Consumer group generation whose chunks count."""
        self._topology = topology
        self._holdings = holdings
        self._dead = dead
        self._offer = offer

    def events(self, chunk: Chunk, now_ms: int) -> bool:
        """A chunk of an event topic. False if it was void or known already."""
        source = self._holdings.sources.get((chunk.topic, chunk.partition))
        if source is None or chunk.generation != self.generation:
            return False
        unread = source.unread(chunk)
        if unread is None:
            return False
        events = source.read(unread)
        appended_ms = int(unread.timestamps.min()) if len(unread) else 0
        self._apply_direct(unread, events, now_ms, appended_ms)
        self._offer_shuffled(unread, events, appended_ms)
        if events.rejects:
            self._dead.offer(unread, events.rejects)
        return True

    def _apply_direct(self, chunk: Chunk, events: Events, now_ms: int, appended_ms: int) -> None:
        for running in self._topology.direct(chunk.topic):
            _, state = self._holdings.views[(running.view.name, chunk.partition)]
            if state.applied >= events.end:
                continue  # this view is ahead of another one that the source was rewound for
            rows, rejects = events.rows_for(running.view, state.applied)
            events.rejects.extend(rejects)
            state.apply_events(events, rows, now_ms, appended_ms)

    def _offer_shuffled(self, chunk: Chunk, events: Events, appended_ms: int) -> None:
        clock = events.clock
        progress = Progress(events.end, events.watermark, clock.ms, clock.driven)
        sections = []
        for running in self._topology.shuffled(chunk.topic):
            held = (running.view.name, chunk.partition)
            since = self._holdings.offered[held]
            if since >= events.end:
                continue
            self._holdings.offered[held] = events.end
            rows, rejects = events.rows_for(running.view, since)
            events.rejects.extend(rejects)
            start = max(since, events.start)
            span = Span(chunk.partition, start, events.end, clock.ms, clock.driven, appended_ms)
            sections.append(Section(running.view.name, running.incarnation, (span,), rows))
        if sections:
            self._offer(chunk.topic, sections, progress)

    def shuffled(self, chunk: Chunk, now_ms: int) -> bool:
        """A chunk of a shuffle topic. False if it was void."""
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
