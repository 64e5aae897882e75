"""How far each source partition has been read, and up to when that was everything there was.

A view behind a shuffle is filled by other workers than those that read its source. Those publish
(offset, instant): what the broker held at this instant lies below this offset. A group whose source
vector has reached every such offset contains everything up to the earliest of the instants.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import redis

from streamsvc.store.client import call_all

__all__ = ["ReadPosition", "read_until_ms", "share_read_positions"]


class ReadPosition(msgspec.Struct, frozen=True, array_like=True):
    """Next offset of a source partition, and the wall-clock ms until which that was everything."""

    offset: int
    at_ms: int


_decoder = msgspec.msgpack.Decoder(ReadPosition)


def share_read_positions(
    client: redis.Redis,
    project: str,
    ours: Mapping[tuple[str, int], ReadPosition],
    partitions: Mapping[str, int],
) -> dict[str, dict[int, ReadPosition]]:
    """Publish our positions, by (topic, partition), and read everybody's.

    `partitions` gives the number of partitions of each topic of interest. A partition that nobody
    has published yet is missing from the answer.
    """
    partitions = dict(partitions)  # a rebalance on another thread may add to the caller's
    commands: list[list[bytes]] = []
    if ours:
        commands.append([b"MSET"])
        for (topic, partition), position in ours.items():
            key = _key(project, topic, partition)
            commands[0] += [key, msgspec.msgpack.encode(position)]
    wanted = [(topic, p) for topic, count in partitions.items() for p in range(count)]
    if wanted:
        commands.append([b"MGET", *(_key(project, topic, p) for topic, p in wanted)])
    replies = call_all(client, commands) if commands else []
    found: dict[str, dict[int, ReadPosition]] = {topic: {} for topic in partitions}
    if wanted:
        for (topic, p), raw in zip(wanted, replies[-1], strict=True):
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
