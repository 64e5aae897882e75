"""Incarnations: a growing number for every (topic id, partitions, definition) of a view.

Offsets mean nothing across a recreated topic, a changed number of partitions or a changed
definition. So each such identity gets a number; it is part of internal topic names and leads the
position of every stored row, and a row of a later incarnation always replaces one of an earlier.

The numbers are agreed through the control topic, by log order: a worker that meets a new identity
appends a claim to the next number and reads on until it sees the log's verdict. The first claim to
a number holds. Keys carry the number and the identity, so compaction never removes a claim.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

__all__ = ["Claim", "Identity", "Verdict", "decide", "newest_claim"]


@dataclass(frozen=True, slots=True)
class Identity:
    """What must be equal for offsets and tiles to go on meaning the same."""

    topic_id: str
    partitions: int
    """State partitions: those of the source for a declared key, else the key groups."""
    definition_hash: str

    @property
    def digest(self) -> str:
        """Short, stable name of the identity."""
        text = f"{self.topic_id}\0{self.partitions}\0{self.definition_hash}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


class Claim(msgspec.Struct, frozen=True):
    """One record of the control topic: this identity of this view is that number."""

    view: str
    number: int
    digest: str
    topic_id: str
    partitions: int
    definition_hash: str

    @property
    def key(self) -> bytes:
        """Record key: unique to the claim."""
        return f"incarnation/{self.view}/{self.number}/{self.digest}".encode()

    @classmethod
    def of(cls, view: str, number: int, identity: Identity) -> Claim:
        """The claim of a view's identity to a number."""
        return cls(
            view,
            number,
            identity.digest,
            identity.topic_id,
            identity.partitions,
            identity.definition_hash,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Either the number that the log gives to the identity, or the claim to append."""

    number: int | None
    claim: Claim | None


def newest_claim(view: str, claims: Iterable[Claim]) -> Claim | None:
    """The claim that holds the view's newest number; claims come in the order of the log."""
    newest: Claim | None = None
    for claim in claims:
        if claim.view == view and claim.number == (newest.number if newest else 0) + 1:
            newest = claim
    return newest


def decide(view: str, identity: Identity, claims: Iterable[Claim]) -> Verdict:
    """Fold the control log, in order, for one view.

    Only the newest number counts. An identity that was superseded and comes back (a definition that
    is reverted) claims a new number, because its rows must replace those of the one in between.
    """
    newest = newest_claim(view, claims)
    if newest is not None and newest.digest == identity.digest:
        return Verdict(newest.number, None)
    number = 1 if newest is None else newest.number + 1
    return Verdict(None, Claim.of(view, number, identity))
