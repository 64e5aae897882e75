"""How far each source partition was shuffled for each view, kept in a compacted topic.

Only a sender whose records were acknowledged writes here, so every record is true for ever, in
whatever order the writers come: the greatest offset of a key is the position. A record that is
lost costs repeated rows, which the receiving side drops. The watermark belongs to the position
because lateness is judged from it: a replay that began with another one would judge differently.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

__all__ = ["Progress", "ProgressKey", "fold_progress"]


@dataclass(frozen=True, slots=True, order=True)
class ProgressKey:
    """One view (in one incarnation) and one source partition."""

    view: str
    incarnation: int
    partition: int

    def encode(self) -> bytes:
        """Record key."""
        return f"{self.view}/{self.incarnation}/{self.partition}".encode()

    @classmethod
    def decode(cls, raw: bytes) -> ProgressKey:
        """The key in a record."""
        view, incarnation, partition = raw.decode().rsplit("/", 2)
        return cls(view, int(incarnation), int(partition))


class Progress(msgspec.Struct, frozen=True):
    """Everything below source offset `offset` has been sent and acknowledged."""

    offset: int
    watermark: int
    clock_ms: int
    clock_driven: bool

    def encode(self) -> bytes:
        """Record value."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, raw: bytes) -> Progress:
        """The progress in a record."""
        return msgspec.msgpack.decode(raw, type=cls)


def fold_progress(
    records: Iterable[tuple[bytes | None, bytes | None]],
) -> dict[ProgressKey, Progress]:
    """The greatest position of every key."""
    newest: dict[ProgressKey, Progress] = {}
    for key, value in records:
        if key is None or value is None:
            continue
        decoded, progress = ProgressKey.decode(key), Progress.decode(value)
        if decoded not in newest or newest[decoded].offset < progress.offset:
            newest[decoded] = progress
    return newest
