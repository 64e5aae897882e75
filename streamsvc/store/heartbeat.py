"""Notices a store that has lost what was written to it: a flush, or a failover to a replica that
lagged.

A worker counts up one key, with every write. A store that holds everything answers with a greater
count than before; one that was emptied, or went back in time, does not.
"""

from __future__ import annotations

import redis

from streamsvc.store.client import call_all
from streamsvc.store.keys import heartbeat_key

__all__ = ["Heartbeat"]

_TTL_MS = 86_400_000  # of workers that are gone; one that pauses longer refills for nothing


class Heartbeat:
    """One worker's count in one project. Belongs to one thread."""

    def __init__(self, client: redis.Redis, project: str, owner: str) -> None:
        self._client = client
        self._key = heartbeat_key(project, owner)
        self._count = 0

    def intact(self) -> bool:
        """Count, and tell whether the store still knew the last count. The first time, it does."""
        commands = [("INCR", self._key), ("PEXPIRE", self._key, _TTL_MS)]
        before, self._count = self._count, int(call_all(self._client, commands)[0])
        return self._count > before
