"""Reading dead letters back: what lies in `<topic>.dead`, one letter a record.

A letter is known by its record, because delivery is at least once: after a crash, or when a
rebuilt view reads the topic again, the same record is refused again, and the newest letter is the
one that counts. A record is known by its position and its timestamp, because a topic that was made
anew begins at 0 again. A replay leaves a note beside the letters, so that all that is to be known
about them lies in one topic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from streamsvc.events.dead_letters import dead_topic
from streamsvc.events.wire import (
    ERROR_HEADER,
    REASON_HEADER,
    REPLAYED_TO_HEADER,
    REPLAYS_HEADER,
    SOURCE_HEADER,
    SOURCE_TIMESTAMP_HEADER,
    Header,
)
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.reader import EARLIEST, read_to_end

__all__ = ["Contents", "Letter", "Letters", "Position", "Record", "read_contents", "read_letters"]


class Position(NamedTuple):
    """Where a record lies.

    >>> Position.parse("card.payments/3/17")
    Position(topic='card.payments', partition=3, offset=17)
    >>> str(Position.parse("card.payments/3/17"))
    'card.payments/3/17'
    """

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """Raises ValueError for what is not `topic/partition/offset`."""
        topic, partition, offset = text.rsplit("/", 2)
        return cls(topic, int(partition), int(offset))


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter without its contents. Times are Kafka timestamps in ms."""

    place: Position
    """In the topic of dead letters."""
    source: Position
    """Of the record that was refused."""
    reason: str
    error: str
    source_ms: int
    refused_ms: int
    replays: int
    """How often the record had been sent again before it was refused this time."""

    @property
    def record(self) -> Record:
        """What the letter is known by."""
        return self.source, self.source_ms


Record: TypeAlias = tuple[Position, int]
"""Position in the source topic, and Kafka timestamp there, ms."""


class Contents(NamedTuple):
    """The record itself, as it was."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]


@dataclass(slots=True)
class Letters:
    """The letters of one source topic."""

    topic: str
    newest: dict[Record, Letter] = field(default_factory=dict)
    repeated: int = 0
    """Letters that are not the newest of their record."""
    foreign: int = 0
    """Records that no worker of ours wrote."""
    sent: dict[Record, Position] = field(default_factory=dict)
    """Where a record was sent again."""

    @property
    def open(self) -> list[Letter]:
        """Letters whose records were not sent again, in the order of these."""
        return [self.newest[record] for record in sorted(self.newest) if record not in self.sent]

    def find(self, at: Position) -> Letter | None:
        """The newest letter at this position, which may be that of its record or its own."""
        found = [letter for letter in self.newest.values() if at in (letter.source, letter.place)]
        return max(found, key=lambda letter: letter.refused_ms, default=None)


async def read_letters(settings: Settings, topic: str) -> Letters:
    """All letters of a source topic that are kept, without their contents.

    None where no such topic exists yet. Raises UnavailableError if Kafka does not answer.
    """
    found = Letters(topic)
    async for chunk, i in _records(settings, topic):
        _take(found, chunk, i)
    return found


async def read_contents(
    settings: Settings, topic: str, places: Collection[Position]
) -> AsyncIterator[tuple[Position, Contents]]:
    """The records at these places of the topic of dead letters, in the order of its partitions."""
    wanted = set(places)
    async for chunk, i in _records(settings, topic):
        at = Position(chunk.topic, chunk.partition, int(chunk.offsets[i]))
        if at in wanted:
            yield at, Contents(chunk.key(i), chunk.value(i), chunk.headers(i))


async def _records(settings: Settings, topic: str) -> AsyncIterator[tuple[Chunk, int]]:
    dead = dead_topic(topic)
    state = Admin(settings).describe([dead]).get(dead)
    if state is None:
        return
    starts = dict.fromkeys(range(state.partitions), EARLIEST)
    async for chunk in read_to_end(settings, dead, starts):
        for i in range(len(chunk)):
            yield chunk, i


def _take(found: Letters, chunk: Chunk, i: int) -> None:
    headers = {name: value or b"" for name, value in chunk.headers(i)}
    try:
        source = Position.parse(headers[SOURCE_HEADER].decode())
        source_ms = int(headers[SOURCE_TIMESTAMP_HEADER])
        if REPLAYED_TO_HEADER in headers:
            target = Position.parse(headers[REPLAYED_TO_HEADER].decode())
            found.sent[source, source_ms] = target
            return
        letter = Letter(
            Position(chunk.topic, chunk.partition, int(chunk.offsets[i])),
            source,
            headers[REASON_HEADER].decode(),
            headers[ERROR_HEADER].decode(errors="replace"),
            source_ms,
            int(chunk.timestamps[i]),
            int(headers.get(REPLAYS_HEADER, b"0")),
        )
    except (KeyError, ValueError):
        found.foreign += 1
        return
    earlier = found.newest.get(letter.record)
    if earlier is not None:
        found.repeated += 1
        if earlier.refused_ms > letter.refused_ms:
            return  # partitions are read in no particular order
    found.newest[letter.record] = letter
