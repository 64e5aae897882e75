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
from streamsvc.store.keys import position_key

__all__ = ["ReadPosition", "SharedPositions", "read_until_ms"]


class ReadPosition(msgspec.Struct, frozen=True, array_like=True):
    """Next offset of a source partition, and the wall-clock ms until which that was everything."""

    offset: int
    at_ms: int


_decoder = msgspec.msgpack.Decoder(ReadPosition)


class SharedPositions:
    """Publishes positions of one project and reads everybody's, by two commands a topic at most."""

    def __init__(
        self,
        project: str,
        ours: Mapping[tuple[str, int], ReadPosition],
        partitions: Mapping[str, int],
    ) -> None:
        """`ours` is by (topic, partition); `partitions` is how many each topic of interest has."""
        self._wanted = {topic: count for topic, count in partitions.items() if count}
        published: dict[str, list[bytes | str | int]] = {}
        for (topic, partition), position in ours.items():
            command = published.setdefault(topic, ["MSET"])
            encoded = msgspec.msgpack.encode(position)
            command += [position_key(project, topic, partition), encoded]
        self.commands: list[Command] = list(published.values())
        for topic, count in self._wanted.items():
            self.commands.append(["MGET", *(position_key(project, topic, p) for p in range(count))])

    def found(self, replies: Sequence[Any]) -> dict[str, dict[int, ReadPosition]]:
        """Everybody's positions by topic and partition, from the replies to `commands`.

        A partition that nobody has published yet is missing.
        """
        read = replies[len(self.commands) - len(self._wanted) :]
        return {
            topic: {p: _decoder.decode(raw) for p, raw in enumerate(of_topic) if raw is not None}
            for topic, of_topic in zip(self._wanted, read, strict=True)
        }


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
