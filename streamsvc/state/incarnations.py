"""Incarnations: a growing number for every (topic id, partitions, definition) of a view.

Offsets mean nothing across a recreated topic, a changed number of partitions or a changed
definition. So each such identity gets a number; it is part of internal topic names and leads the
position of every stored row, and a row of a later incarnation always replaces one of an earlier.

The numbers are agreed through the control topic, by log order: a worker that meets a new identity
appends a claim to the next number and reads on until it sees the log's verdict. The first claim to
a number holds. Keys carry the number and the identity, so compaction never removes a claim.

A backfill *reserves* a number while it builds the state that shall have it. A reservation is not a
claim: the state before goes on to be the view's. It says what is being built, and from then on that
number can be claimed for nothing else.

An incarnation that replaces another is claimed *quiet*: state partition by state partition, its
rows wait until they contain what those of its predecessor do. Once all of them are written it is
*settled*, which the log says, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

__all__ = [
    "Claim",
    "Handover",
    "Identity",
    "Verdict",
    "decide",
    "holders",
    "newest_claim",
    "next_number",
    "open_reservation",
    "replaces_rows",
    "settled_key",
]


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


class Handover(msgspec.Struct, frozen=True):
    """What a state begins with that was built from an archive."""

    offsets: Mapping[int, int]
    """Source partition -> offset at which the stream goes on; all events before it are in."""
    watermarks: Mapping[int, int]
    """Source partition -> greatest event time before that offset."""
    from_ms: int | None = None
    """Events that happened before it were left out."""
    to_ms: int | None = None
    """The events were taken up to the first that happened then or later."""


class Claim(msgspec.Struct, frozen=True):
    """One record of the control topic: this identity of this view is that number."""

    view: str
    number: int
    digest: str
    topic_id: str
    partitions: int
    definition_hash: str
    handover: Handover | None = None
    reserved: bool = False
    quiet: bool = False
    """Its rows wait until it has caught up, because those of an earlier one are being served."""
    begins: dict[int, int] = msgspec.field(default_factory=dict)
    """Shuffle partition -> offset before which none of its rows can lie: where the log ended before
    it was claimed. Empty is the beginning."""
    start: str = ""
    """What its source said of where to begin; empty is the beginning."""
    starts: dict[int, int] = msgspec.field(default_factory=dict)
    """Source partition -> offset at which it begins, where its source said so."""
    topic_begins: dict[int, int] = msgspec.field(default_factory=dict)
    """Source partition -> first offset that the topic still had when this was claimed."""

    @property
    def key(self) -> bytes:
        """Record key: unique to the claim."""
        key = f"incarnation/{self.view}/{self.number}/{self.digest}"
        if self.begins:
            # Of two equal claims the first one counts, so the second may not replace it.
            key += "/" + "-".join(str(at) for _, at in sorted(self.begins.items()))
        if self.starts:
            key += "/from-" + "-".join(str(at) for _, at in sorted(self.starts.items()))
        return (key + ("/reserved" if self.reserved else "")).encode()

    @property
    def confirmed(self) -> Claim:
        """The claim that a reservation is for."""
        return msgspec.structs.replace(self, reserved=False)

    @classmethod
    def of(
        cls,
        view: str,
        number: int,
        identity: Identity,
        handover: Handover | None = None,
        *,
        reserved: bool = False,
        quiet: bool = False,
        start: str = "",
    ) -> Claim:
        """The claim of a view's identity to a number, or the reservation of one."""
        return cls(
            view,
            number,
            identity.digest,
            identity.topic_id,
            identity.partitions,
            identity.definition_hash,
            handover,
            reserved,
            quiet,
            start=start,
        )


def settled_key(view: str, number: int) -> bytes:
    """Key of the record which says that a quiet incarnation serves everywhere."""
    return f"settled/{view}/{number}".encode()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Either the number that the log gives to the identity, or the claim to append."""

    number: int | None
    claim: Claim | None


def newest_claim(view: str, claims: Iterable[Claim]) -> Claim | None:
    """The claim that holds the view's newest number; claims come in the order of the log."""
    held = holders(view, claims)
    return held[-1] if held else None


def holders(view: str, claims: Iterable[Claim]) -> list[Claim]:
    """The claims that hold the view's numbers, the newest last; they come in the order of the
    log."""
    held: list[Claim] = []
    reserved: dict[int, Claim] = {}
    for claim in claims:
        if claim.view != view or (held and claim.number <= held[-1].number):
            continue
        if claim.reserved:
            reserved.setdefault(claim.number, claim)
        elif claim.number not in reserved or claim == reserved[claim.number].confirmed:
            held.append(claim)
    return held


def next_number(view: str, claims: Iterable[Claim]) -> int:
    """A number that no claim or reservation of the view has."""
    return 1 + max((claim.number for claim in claims if claim.view == view), default=0)


def replaces_rows(view: str, topic_id: str, claims: Sequence[Claim]) -> bool:
    """Whether rows of a topic's views may be being served, those of this view among them.

    Then an incarnation that the view begins now has to be quiet: nobody may see its rows too early,
    and nobody else wait until it has caught up.
    """
    held = newest_claim(view, claims)
    if held is not None and held.topic_id:
        return held.topic_id == topic_id
    # It is new, was removed, or is to begin anew.
    return any(c.topic_id == topic_id and "/" not in c.view and not c.reserved for c in claims)


def open_reservation(view: str, identity: Identity, claims: Sequence[Claim]) -> Claim | None:
    """The newest reservation for the identity that may still become the view's newest claim."""
    held = newest_claim(view, claims)
    found = [
        claim
        for claim in claims
        if claim.view == view and claim.reserved and claim.number > _number(held)
    ]
    newest = max(found, key=lambda claim: claim.number, default=None)
    return newest if newest is not None and newest.digest == identity.digest else None


def _number(claim: Claim | None) -> int:
    return 0 if claim is None else claim.number


def decide(view: str, identity: Identity, claims: Sequence[Claim]) -> Verdict:
    """Fold the control log, in order, for one view.

    Only the newest number counts. An identity that was superseded and comes back (a definition that
    is reverted) claims a new number, because its rows must replace those of the one in between.
    """
    newest = newest_claim(view, claims)
    if newest is not None and newest.digest == identity.digest:
        return Verdict(newest.number, None)
    return Verdict(None, Claim.of(view, next_number(view, claims), identity))
