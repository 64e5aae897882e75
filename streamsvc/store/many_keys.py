"""Any number of keys in one call: one command to a server, one for every hash tag to a cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from streamsvc.store.client import Client, call, call_all
from streamsvc.store.cluster import Cluster, Command

__all__ = ["mget", "mset", "rows_by_tag", "unlink"]

_MAX_KEYS = 4_096
"""Keys of one command: a longer one would hold up everybody else for milliseconds."""


def mget(client: Client, names: Sequence[bytes]) -> list[Any]:
    """What is stored under each name, None where nothing is."""
    found: list[Any] = [None] * len(names)
    if isinstance(client, Cluster):
        tags = list(rows_by_tag(names).values())
        replies = call_all(client, [("MGET", *(names[i] for i in tag)) for tag in tags])
        for tag, values in zip(tags, replies, strict=True):
            for i, value in zip(tag, values, strict=True):
                found[i] = value
        return found
    for i in range(0, len(names), _MAX_KEYS):
        found[i : i + _MAX_KEYS] = call(client, "MGET", *names[i : i + _MAX_KEYS])
    return found


def mset(client: Client, values: Mapping[bytes, bytes]) -> None:
    """Store all of them; those of one hash tag at one instant."""
    if not values:
        return
    names = list(values)
    tags = rows_by_tag(names).values() if isinstance(client, Cluster) else [range(len(names))]
    commands: list[Command] = [
        ["MSET", *(part for i in tag for part in (names[i], values[names[i]]))] for tag in tags
    ]
    call_all(client, commands)


def unlink(client: Client, names: Iterable[bytes]) -> int:
    """Delete keys; how many there were."""
    keys = list(names)
    if not keys:
        return 0
    tags = rows_by_tag(keys).values() if isinstance(client, Cluster) else [range(len(keys))]
    return sum(map(int, call_all(client, [("UNLINK", *(keys[i] for i in tag)) for tag in tags])))


def rows_by_tag(names: Sequence[bytes]) -> dict[bytes, list[int]]:
    """Hash tag -> where its keys stand among the names."""
    tags: dict[bytes, list[int]] = {}
    for i, name in enumerate(names):
        tags.setdefault(name[: name.index(b"}")], []).append(i)
    return tags
