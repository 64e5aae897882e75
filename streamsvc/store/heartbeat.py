"""Notices a store that has lost what was written to it: a flush, or a failover to a replica that
lagged.

A worker counts up one key on every server that keeps rows, behind every write. A server that holds
everything answers with a greater count than before; one that was emptied, or went back in time,
does not: whoever has lost a row has lost the count behind it, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamsvc.store.client import Client, Command, spread
from streamsvc.store.keys import heartbeat_key

__all__ = ["Heartbeat"]

_PLACES = 1_024
"""Enough for a key on each of a hundred primaries."""
_TTL_MS = 86_400_000  # of workers that are gone; one that pauses longer refills for nothing


class Heartbeat:
    """One worker's count in one project. Belongs to one thread."""

    def __init__(self, client: Client, project: str, owner: str) -> None:
        self._client = client
        self._candidates = [heartbeat_key(project, owner, place) for place in range(_PLACES)]
        self._keys: list[bytes] = []
        self._counts: dict[bytes, int] = {}

    def commands(self) -> list[Command]:
        """What counts on, everywhere; to be sent behind the rows."""
        self._keys = spread(self._client, self._candidates)
        found: list[Command] = []
        for key in self._keys:
            found += [("INCR", key), ("PEXPIRE", key, _TTL_MS)]
        return found

    def intact(self, replies: Sequence[Any]) -> bool:
        """Whether all servers that gave these replies still knew the count before; replies are told
        in the order in which they came. A server that is asked for the first time does."""
        before = self._counts
        self._counts = {key: int(replies[2 * i]) for i, key in enumerate(self._keys)}
        return all(count > before.get(key, 0) for key, count in self._counts.items())
