"""Notices a store that has lost what was written to it: a flush, or a failover to a replica that
lagged.

A worker counts up one key, with every write. A store that holds everything answers with a greater
count than before; one that was emptied, or went back in time, does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamsvc.store.client import Command
from streamsvc.store.keys import heartbeat_key

__all__ = ["Heartbeat"]

_TTL_MS = 86_400_000  # of workers that are gone; one that pauses longer refills for nothing


class Heartbeat:
    """One worker's count in one project. Belongs to one thread."""

    def __init__(self, project: str, owner: str) -> None:
        self._key = heartbeat_key(project, owner)
        self._count = 0
        self.commands: tuple[Command, ...] = (
            ("INCR", self._key),
            ("PEXPIRE", self._key, _TTL_MS),
        )
        """What counts on."""

    def intact(self, replies: Sequence[Any]) -> bool:
        """Whether the store that gave these replies still knew the count before. The first time,
        it does."""
        before, self._count = self._count, int(replies[0])
        return self._count > before
