"""The claims of incarnations in the control topic: read, and added to.

See `state.incarnations` for what they mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec
import structlog

from streamsvc.definitions.plan import Plan
from streamsvc.settings import Settings
from streamsvc.state.incarnations import (
    Claim,
    Handover,
    Identity,
    decide,
    newest_claim,
    next_number,
    replaces_rows,
    settled_key,
)
from streamsvc.state.topics import InternalTopics
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import read_to_end

__all__ = [
    "Control",
    "agree",
    "began_at",
    "begin_anew",
    "claim_times",
    "confirm",
    "handed_over",
    "read_claims",
    "read_control",
    "reserve",
    "retire",
    "retired",
    "settle",
]

log = structlog.get_logger(__name__)

_RETIRED = Identity("", 0, "removed")


@dataclass(frozen=True, slots=True)
class Control:
    """What the control topic says."""

    claims: Sequence[Claim]
    """In the order of the log."""
    settled: frozenset[bytes]
    """Keys of the quiet incarnations that serve everywhere."""

    def quiet(self, claim: Claim) -> bool:
        """Whether some of the claim's rows may still be waiting."""
        return claim.quiet and settled_key(claim.view, claim.number) not in self.settled


async def agree(
    settings: Settings,
    control: str,
    identities: Mapping[str, Identity],
    complete: Callable[[Claim, Sequence[Claim]], Claim] = lambda claim, _: claim,
) -> dict[str, Claim]:
    """The newest claim of every view, which is one of its identity: made where there was none.

    `complete` makes a claim ready to be appended, given those before it.
    """
    while True:
        claims = await read_claims(settings, control)
        verdicts = {v: decide(v, identity, claims) for v, identity in identities.items()}
        open_claims = [v.claim for v in verdicts.values() if v.claim is not None]
        if not open_claims:
            held = [newest_claim(view, claims) for view in identities]
            return {claim.view: claim for claim in held if claim is not None}
        for claim in open_claims:
            log.info("incarnation_claimed", view=claim.view, incarnation=claim.number)
        await _append(settings, control, [complete(claim, claims) for claim in open_claims])


async def begin_anew(settings: Settings, plan: Plan, views: Sequence[str]) -> None:
    """Let these views' next workers begin a new incarnation, whatever the state of this one.

    Claims the next number for nobody, so that workers claim the one after it.
    """
    control = InternalTopics(settings.topic_prefix, plan.project).control
    if not Admin(settings).exists(control):
        return
    claims = await read_claims(settings, control)
    held = [newest_claim(view, claims) for view in views]
    nobody = Identity("", 0, "begin anew")
    void = [Claim.of(c.view, next_number(c.view, claims), nobody) for c in held if c]
    await _append(settings, control, void)


async def reserve(
    settings: Settings,
    control: str,
    view: str,
    identity: Identity,
    handover: Handover,
    start: str,
) -> Claim:
    """Keep a number from others while the state is built that shall have it.

    `start` is what the view's source says of where to begin; a state from an archive begins with
    all of it, and whatever replaces that one does with all of the topic.
    """
    while True:
        claims = await read_claims(settings, control)
        number = next_number(view, claims)
        quiet = replaces_rows(view, identity.topic_id, claims)
        wanted = Claim.of(view, number, identity, handover, reserved=True, quiet=quiet, start=start)
        await _append(settings, control, [wanted])
        # Of two that saw the same number free, the first in the log has it.
        taken = [c for c in await read_claims(settings, control) if c.view == view]
        if next(c for c in taken if c.number == number) == wanted:
            return wanted


async def confirm(settings: Settings, control: str, reservation: Claim) -> bool:
    """Claim a reserved number; False if another one was claimed since it was reserved."""
    claim = reservation.confirmed
    await _append(settings, control, [claim])
    return newest_claim(claim.view, await read_claims(settings, control)) == claim


async def retire(settings: Settings, control: str, view: str, number: int) -> None:
    """Note that nothing is left of a view up to this incarnation: should it come back, it begins
    anew. Unless it has come back already."""
    claims = await read_claims(settings, control)
    held = newest_claim(view, claims)
    if held is not None and held.number == number:
        await _append(settings, control, [Claim.of(view, next_number(view, claims), _RETIRED)])


def retired(claim: Claim) -> bool:
    """Whether a view was removed, and its rows are gone."""
    return claim.digest == _RETIRED.digest


async def settle(settings: Settings, control: str, view: str, number: int) -> None:
    """Note that an incarnation serves everywhere."""
    await _send(settings, control, [(settled_key(view, number), b"{}")])


async def _append(settings: Settings, control: str, claims: Sequence[Claim]) -> None:
    await _send(settings, control, [(claim.key, msgspec.json.encode(claim)) for claim in claims])


async def _send(settings: Settings, control: str, records: Sequence[tuple[bytes, bytes]]) -> None:
    if not records:
        return
    producer = BatchProducer(settings)
    await producer.start()
    try:
        await (await producer.send(control, 0, [(key, value, ()) for key, value in records]))
    finally:
        await producer.stop()


async def claim_times(settings: Settings, plan: Plan) -> dict[str, int]:
    """View -> when its newest incarnation was claimed, as Kafka timestamp in ms."""
    control = InternalTopics(settings.topic_prefix, plan.project).control
    if not Admin(settings).exists(control):
        return {}
    return {claim.view: ms for claim, ms in await _timed(settings, control) if not claim.reserved}


async def began_at(settings: Settings, plan: Plan) -> dict[str, Mapping[int, int]]:
    """View -> source offsets at which its state began, where it was not the beginning."""
    control = InternalTopics(settings.topic_prefix, plan.project).control
    claims = await read_claims(settings, control)
    newest = {view.name: newest_claim(view.name, claims) for view in plan.views}
    return {v: c.starts for v, c in newest.items() if c and c.starts}


async def handed_over(settings: Settings, plan: Plan) -> dict[str, Mapping[int, int]]:
    """View -> source offsets below which its state was built from an archive, where it was."""
    control = InternalTopics(settings.topic_prefix, plan.project).control
    claims = await read_claims(settings, control)
    newest = {view.name: newest_claim(view.name, claims) for view in plan.views}
    return {v: c.handover.offsets for v, c in newest.items() if c and c.handover}


async def read_claims(settings: Settings, control: str) -> Sequence[Claim]:
    """All claims, in the order of the log."""
    return (await read_control(settings, control)).claims


async def read_control(settings: Settings, control: str) -> Control:
    """All that the control topic says."""
    records = await _records(settings, control)
    settled = frozenset(key for key, _, _ in records if key.startswith(b"settled/"))
    return Control([claim for claim, _ in _claims(records)], settled)


async def _timed(settings: Settings, control: str) -> Sequence[tuple[Claim, int]]:
    return _claims(await _records(settings, control))


def _claims(records: Sequence[tuple[bytes, bytes, int]]) -> Sequence[tuple[Claim, int]]:
    return [
        (msgspec.json.decode(value, type=Claim), ms)
        for key, value, ms in records
        if key.startswith(b"incarnation/")
    ]


async def _records(settings: Settings, control: str) -> list[tuple[bytes, bytes, int]]:
    """Key, value and Kafka timestamp of every record."""
    records: list[tuple[bytes, bytes, int]] = []
    async for chunk in read_to_end(settings, control, {0: 0}):
        for i in range(len(chunk)):
            key, value = chunk.key(i), chunk.value(i)
            if key is not None and value is not None:
                records.append((key, value, int(chunk.timestamps[i])))
    return records
