"""The records of the rollout topic, and what they say when they are read in order.

    revision/<service>/<number>/<nonce>   a `Revision`; the first of a number holds
    applied/<service>/<worker>            an `Applied`; the newest holds, none is a worker that left
    progress/<service>                    a `Progress`; the newest holds

Values are JSON. The topic is compacted; the nonce, unique to its writer, keeps the first claim to a
number when the second has been appended.
"""

from __future__ import annotations

from typing import Any

import msgspec

from streamsvc.models.rollout import Revision

__all__ = ["Applied", "Progress", "RolloutLog", "applied_key", "progress_key", "revision_key"]


class Applied(msgspec.Struct, frozen=True):
    """What one worker says of the newest revision that it saw."""

    service: str
    worker: str
    revision: int
    """The newest one seen."""
    at_ms: int
    running: int
    """The revision that runs here: an earlier one where the newest was refused; 0 without any."""
    champion: int
    candidate: int | None = None
    refused: str | None = None
    """Why the newest revision does not run here; None if it does."""


class Progress(msgspec.Struct, frozen=True):
    """What a controller wants to find again after a restart; it replaces the one before."""

    service: str
    revision: int
    """The revision that it is about."""
    at_ms: int
    state: dict[str, Any]


def revision_key(service: str, number: int, nonce: str) -> bytes:
    """Record key of a `Revision`."""
    return f"revision/{service}/{number}/{nonce}".encode()


def applied_key(service: str, worker: str) -> bytes:
    """Record key of what a worker says."""
    return f"applied/{service}/{worker}".encode()


def progress_key(service: str) -> bytes:
    """Record key of a controller's progress."""
    return f"progress/{service}".encode()


class RolloutLog:
    """What the records say that were read so far."""

    def __init__(self) -> None:
        self.revisions: dict[str, list[Revision]] = {}
        """Service -> its revisions that hold, the oldest first."""
        self.applied: dict[str, dict[str, Applied]] = {}
        """Service -> worker -> what it said last."""
        self.progress: dict[str, Progress] = {}
        self.position = 0
        """Offset of the next record. Reading one again changes nothing."""

    def current(self, service: str) -> Revision | None:
        """What shall run for a service; None where nobody has said."""
        held = self.revisions.get(service)
        return held[-1] if held else None

    def add(self, key: bytes | None, value: bytes | None) -> str | None:
        """Read the next record; the service whose current revision it changed, or None.

        A kind that is not known is passed over. Raises msgspec.DecodeError for a value that is not
        one of ours.
        """
        kind, _, rest = (key or b"").decode().partition("/")
        if kind == "applied":
            self._add_applied(rest, value)
        elif value is None:
            return None
        elif kind == "progress":
            self.progress[rest] = msgspec.json.decode(value, type=Progress)
        elif kind == "revision":
            return self._add_revision(msgspec.json.decode(value, type=Revision))
        return None

    def _add_applied(self, rest: str, value: bytes | None) -> None:
        service, _, worker = rest.partition("/")
        workers = self.applied.setdefault(service, {})
        if value is None:
            workers.pop(worker, None)
        else:
            workers[worker] = msgspec.json.decode(value, type=Applied)

    def _add_revision(self, revision: Revision) -> str | None:
        held = self.revisions.setdefault(revision.service, [])
        if revision.revision != 1 + len(held):
            return None
        held.append(revision)
        return revision.service
