"""Dead letters: records that cannot be used, as they were, with the reason in headers.

A dead letter keeps key, value and headers of its record. `streamsvc-reason` is a word for machines,
`streamsvc-error` a sentence (its first thousand characters), `streamsvc-source` is
topic/partition/offset and `streamsvc-source-timestamp` the record's Kafka timestamp in
milliseconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from streamsvc.events.wire import (
    DEAD_SUFFIX,
    ERROR_HEADER,
    REASON_HEADER,
    SOURCE_HEADER,
    SOURCE_TIMESTAMP_HEADER,
    Header,
    Records,
    Reject,
)

__all__ = ["DeadLetter", "dead_letters", "dead_topic"]

_MOST_CHARACTERS: Final = 1_000
_OURS: Final = frozenset({REASON_HEADER, ERROR_HEADER, SOURCE_HEADER, SOURCE_TIMESTAMP_HEADER})


class DeadLetter(NamedTuple):
    """A record for the dead letter topic, in the order in which a producer takes its parts."""

    key: bytes | None
    value: bytes | None
    headers: list[Header]


def dead_topic(topic: str) -> str:
    """Where the dead letters of a topic go."""
    return topic + DEAD_SUFFIX


def dead_letters(records: Records, rejects: Sequence[Reject]) -> list[DeadLetter]:
    """One dead letter per reject, in the same order.

    A record that was a dead letter before, and has been replayed, gets new headers of ours in
    place of the old ones; all other headers stay, in order.
    """
    letters = []
    for reject in rejects:
        row = reject.row
        headers = [header for header in records.headers(row) if header[0] not in _OURS]
        position = f"{records.topic}/{records.partition}/{records.offsets[row]}"
        headers += [
            (REASON_HEADER, reject.reason.encode()),
            (ERROR_HEADER, _short(reject.error).encode(errors="replace")),
            (SOURCE_HEADER, position.encode()),
            (SOURCE_TIMESTAMP_HEADER, b"%d" % records.timestamps[row]),
        ]
        letters.append(DeadLetter(records.key(row), records.value(row), headers))
    return letters


def _short(error: str) -> str:
    """What a udf raises can hold all that it was handed; a header cannot."""
    return error if len(error) <= _MOST_CHARACTERS else error[:_MOST_CHARACTERS] + "…"
