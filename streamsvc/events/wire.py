"""Names and formats that streamsvc puts on the wire around events: headers and reasons.

A **clock record** has a null value and the header `streamsvc-clock`: it is no event, it says that
event time has reached that instant in its partition. A **read-your-writes** request carries
`streamsvc-after`: the records that its features must include.

>>> parse_after(format_after([After("card.payments", 3, 17), After("shops", 0, 2)]))
(After(topic='card.payments', partition=3, offset=17), After(topic='shops', partition=0, offset=2))
>>> parse_clock(format_clock(1_380_585_600_000))
1380585600000
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

from streamsvc.columns import I64, Bools

__all__ = [
    "AFTER_HEADER",
    "CLOCK_HEADER",
    "DEAD_SUFFIX",
    "ERROR_HEADER",
    "REASON_HEADER",
    "REPLAYED_HEADER",
    "REPLAYED_TO_HEADER",
    "REPLAYS_HEADER",
    "SOURCE_HEADER",
    "SOURCE_TIMESTAMP_HEADER",
    "TRACE_HEADER",
    "After",
    "Clocks",
    "Header",
    "Reason",
    "Records",
    "Reject",
    "find_clocks",
    "format_after",
    "format_clock",
    "parse_after",
    "parse_clock",
]

CLOCK_HEADER: Final = "streamsvc-clock"
AFTER_HEADER: Final = "streamsvc-after"
TRACE_HEADER: Final = "traceparent"
REASON_HEADER: Final = "streamsvc-reason"
ERROR_HEADER: Final = "streamsvc-error"
SOURCE_HEADER: Final = "streamsvc-source"
SOURCE_TIMESTAMP_HEADER: Final = "streamsvc-source-timestamp"
REPLAYED_HEADER: Final = "streamsvc-replayed"
"""On a record that was sent again: topic/partition/offset of the one that was refused."""
REPLAYS_HEADER: Final = "streamsvc-replays"
"""On the same: how often it has been sent again."""
REPLAYED_TO_HEADER: Final = "streamsvc-replayed-to"
"""On a note among the dead letters: where the record of `streamsvc-source` was sent again."""
DEAD_SUFFIX: Final = ".dead"
"""Appended to a topic's name: where its records go that cannot be used."""

_MAX_CLOCK_DIGITS: Final = 15

Header: TypeAlias = tuple[str, bytes | None]
Reason: TypeAlias = Literal[
    "bad_json",
    "bad_avro",
    "bad_protobuf",
    "bad_header",
    "unknown_schema",
    "schema_mismatch",
    "wrong_type",
    "null_value",
    "too_large",
    "bad_event_time",
    "future",
    "late",
    "null_entity",
    "udf_failed",
    "wrong_key",
]


@dataclass(frozen=True, slots=True)
class Reject:
    """One record that cannot be used: its row in the chunk, a word for machines, a sentence."""

    row: int
    reason: Reason
    error: str


class Records(Protocol):
    """What is needed of a chunk here; `transport.Chunk` has it. Arrays have shape (n,)."""

    @property
    def topic(self) -> str:
        """Topic of every record."""
        ...

    @property
    def partition(self) -> int:
        """Partition of every record."""
        ...

    @property
    def offsets(self) -> I64:
        """Offset of each record."""
        ...

    @property
    def timestamps(self) -> I64:
        """Kafka timestamps, milliseconds since the epoch."""
        ...

    @property
    def value_start(self) -> I64:
        """-1 where the value is null."""
        ...

    @property
    def with_headers(self) -> I64:
        """Rows that carry a header."""
        ...

    def __len__(self) -> int: ...

    def key(self, i: int) -> bytes | None:
        """One record's key."""
        ...

    def value(self, i: int) -> bytes | None:
        """One record's value."""
        ...

    def headers(self, i: int) -> Sequence[Header]:
        """One record's headers."""
        ...


class After(NamedTuple):
    """A record that must be applied before a request is answered."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Clocks:
    """The clock records of a chunk."""

    skip: Bools
    """Shape (n,): rows that are clock records, for `Decoder.decode(…, skip=…)`."""
    rows: I64
    """Their rows, ascending; shape (k,)."""
    time: I64
    """The event time that each announces, milliseconds; shape (k,)."""


_NONE = np.empty(0, np.int64)


def find_clocks(records: Records) -> Clocks:
    """The clock records of a chunk.

    Costs nothing for records with a value. A null value whose clock header is not a time is not a
    clock record: decoding rejects it as a null value.
    """
    n = len(records)
    skip = np.zeros(n, np.bool_)
    rows: list[int] = []
    times: list[int] = []
    candidates = records.with_headers
    if not len(candidates):
        return Clocks(skip, _NONE, _NONE)
    for row in candidates[records.value_start[candidates] < 0].tolist():
        raw = dict(records.headers(row)).get(CLOCK_HEADER)
        if raw is None or not _is_clock(raw):
            continue
        skip[row] = True
        rows.append(row)
        times.append(parse_clock(raw))
    return Clocks(skip, np.array(rows, np.int64), np.array(times, np.int64))


def format_clock(event_time_ms: int) -> bytes:
    """Value of the clock header. Raises ValueError for a time before 1970 or past year 30000."""
    raw = b"%d" % event_time_ms
    if not _is_clock(raw):
        raise ValueError(f"{event_time_ms} is not a clock time in milliseconds since 1970")
    return raw


def parse_clock(raw: bytes) -> int:
    """The event time in milliseconds of a clock header. Raises ValueError if it is not one."""
    if not _is_clock(raw):
        raise ValueError(f"{CLOCK_HEADER} must be milliseconds since 1970 in digits, not {raw!r}")
    return int(raw)


def format_after(records: Iterable[After]) -> bytes:
    """Value of the read-your-writes header."""
    return ",".join(f"{r.topic}/{r.partition}/{r.offset}" for r in records).encode("ascii")


def parse_after(raw: bytes) -> tuple[After, ...]:
    """The records named by a read-your-writes header. Raises ValueError if it is malformed."""
    found = []
    for item in raw.decode("ascii", "replace").split(","):
        topic, *position = item.strip().split("/")
        if not topic or len(position) != 2 or not all(_is_digits(p) for p in position):
            raise ValueError(
                f"{AFTER_HEADER} must be topic/partition/offset[,…] with numbers, not {raw!r}"
            )
        found.append(After(topic, int(position[0]), int(position[1])))
    return tuple(found)


def _is_clock(raw: bytes) -> bool:
    return raw.isdigit() and len(raw) <= _MAX_CLOCK_DIGITS


def _is_digits(text: str) -> bool:
    return text.isascii() and text.isdigit()
