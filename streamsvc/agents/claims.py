"""The claims of incarnations in the control topic: read, and added to.

See `state.incarnations` for what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

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
)
from streamsvc.state.topics import InternalTopics
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import read_to_end

__all__ = ["agree", "begin_anew", "claim_times", "confirm", "handed_over", "read_claims", "reserve"]

log = structlog.get_logger(__name__)


async def agree(
    settings: Settings, control: str, identities: Mapping[str, Identity]
) -> dict[str, int]:
    """The number of every view's identity, claimed in the control topic where it is new."""
    while True:
        claims = await read_claims(settings, control)
        verdicts = {v: decide(v, identity, claims) for v, identity in identities.items()}
        open_claims = [v.claim for v in verdicts.values() if v.claim is not None]
        if not open_claims:
            return {v: verdict.number for v, verdict in verdicts.items() if verdict.number}
        for claim in open_claims:
            log.info("incarnation_claimed", view=claim.view, incarnation=claim.number)
        await _append(settings, control, open_claims)


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
    settings: Settings, control: str, view: str, identity: Identity, handover: Handover
) -> Claim:
    """Keep a number from others while the state is built that shall have it."""
    while True:
        claims = await read_claims(settings, control)
        number = next_number(view, claims)
        wanted = Claim.of(view, number, identity, handover, reserved=True)
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


async def _append(settings: Settings, control: str, claims: Sequence[Claim]) -> None:
    producer = BatchProducer(settings)
    await producer.start()
    try:
        records = [(claim.key, msgspec.json.encode(claim), ()) for claim in claims]
        await (await producer.send(control, 0, records))
    finally:
        await producer.stop()


async def claim_times(settings: Settings, plan: Plan) -> dict[str, int]:
    """View -> when its newest incarnation was claimed, as Kafka timestamp in ms."""
    control = InternalTopics(settings.topic_prefix, plan.project).control
    if not Admin(settings).exists(control):
        return {}
    return {claim.view: ms for claim, ms in await _timed(settings, control) if not claim.reserved}


async def handed_over(settings: Settings, plan: Plan) -> dict[str, Mapping[int, int]]:
    """View -> source offsets below which its state was built from an archive, where it was."""
    control = InternalTopics(settings.topic_prefix, plan.project).control
    claims = await read_claims(settings, control)
    newest = {view.name: newest_claim(view.name, claims) for view in plan.views}
    return {v: c.handover.offsets for v, c in newest.items() if c and c.handover}


async def read_claims(settings: Settings, control: str) -> Sequence[Claim]:
    """All claims, in the order of the log."""
    return [claim for claim, _ in await _timed(settings, control)]


async def _timed(settings: Settings, control: str) -> Sequence[tuple[Claim, int]]:
    claims: list[tuple[Claim, int]] = []
    async for chunk in read_to_end(settings, control, {0: 0}):
        for i in range(len(chunk)):
            key, value = chunk.key(i), chunk.value(i)
            if key is not None and value is not None and key.startswith(b"incarnation/"):
                claim = msgspec.json.decode(value, type=Claim)
                claims.append((claim, int(chunk.timestamps[i])))
    return claims
