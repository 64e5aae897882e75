"""How far each source partition has been read, and up to when that was everything there was.

A view behind a shuffle is filled by other workers than those that read its source. Those publish
(offset, instant): what the broker held at this instant lies below this offset. A group whose source
vector has reached every such offset contains everything up to the earliest of the instants.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from streamsvc.store.client import Command

__all__ = ["ReadPosition", "SharedPositions", "read_until_ms"]


class ReadPosition(msgspec.Struct, frozen=True, array_like=True):
    """Next offset of a source partition, and the wall-clock ms until which that was everything."""

    offset: int
    at_ms: int


_decoder = msgspec.msgpack.Decoder(ReadPosition)


class SharedPositions:
    """Publishes positions of one project and reads everybody's, by two commands at most."""

    def __init__(
        self,
        project: str,
        ours: Mapping[tuple[str, int], ReadPosition],
        partitions: Mapping[str, int],
    ) -> None:
        """`ours` is by (topic, partition); `partitions` is how many each topic of interest has."""
        self._topics = tuple(partitions)
        self._wanted = [(topic, p) for topic, count in partitions.items() for p in range(count)]
        self.commands: list[Command] = []
        if ours:
            pairs = ((_key(project, *at), msgspec.msgpack.encode(p)) for at, p in ours.items())
            self.commands.append([b"MSET", *(part for pair in pairs for part in pair)])
        if self._wanted:
            self.commands.append([b"MGET", *(_key(project, *at) for at in self._wanted)])

    def found(self, replies: Sequence[Any]) -> dict[str, dict[int, ReadPosition]]:
        """Everybody's positions by topic and partition, from the replies to `commands`.

        A partition that nobody has published yet is missing.
        """
        found: dict[str, dict[int, ReadPosition]] = {topic: {} for topic in self._topics}
        if self._wanted:
            for (topic, p), raw in zip(self._wanted, replies[-1], strict=True):
                if raw is not None:
                    found[topic][p] = _decoder.decode(raw)
        return found


def read_until_ms(
    vector: Mapping[int, int], positions: Mapping[int, ReadPosition], partitions: int
) -> int:
    """The instant up to which a state with this source vector contains everything; 0 if unknown.

    `vector` is the next source offset by partition, as applied.
    """
    earliest: int | None = None
    for partition in range(partitions):
        position = positions.get(partition)
        if position is None or vector.get(partition, 0) < position.offset:
            return 0
        earliest = position.at_ms if earliest is None else min(earliest, position.at_ms)
    return earliest or 0


def _key(project: str, topic: str, partition: int) -> bytes:
    return f"{{{project}/{topic}/read}}{partition}".encode()
