"""A backfill from beginning to end.

Everything is built under a reserved number while the view's state goes on to be used. Claiming that
number is the switch; before it a crash leaves an unused number behind, and what is complete serves
the next try.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Protocol

from streamsvc.agents.backfill.cluster import Pool
from streamsvc.agents.backfill.extent import archive_files, handover_of, units_of
from streamsvc.agents.backfill.logs import complete_partitions, write_progress
from streamsvc.agents.backfill.tiles import Piece, Task
from streamsvc.agents.claims import confirm, read_claims, reserve
from streamsvc.agents.preparing import PreparedView, prepare_view
from streamsvc.agents.start_position import start_text
from streamsvc.agents.topology import RunningView
from streamsvc.definitions.plan import Plan, View
from streamsvc.errors import CheckFailedError, IntegrityError
from streamsvc.settings import Settings
from streamsvc.state.incarnations import Claim, Handover, open_reservation
from streamsvc.store.client import connect
from streamsvc.store.layouts import publish_layout
from streamsvc.store.markers import write_markers
from streamsvc.store.sweep import delete_older
from streamsvc.transport.admin import Admin
from streamsvc.transport.groups import Groups

__all__ = ["Backfilled", "Progress", "backfill"]


class Progress(Protocol):
    """Whoever wants to know how far it is."""

    def begin(self, what: str, total: int) -> None:
        """Something begins that has so many steps."""

    def step(self, steps: int) -> None:
        """So many of them are done."""


@dataclass(slots=True)
class Backfilled:
    """What a backfill has done."""

    view: str
    incarnation: int
    handover: dict[int, int]
    """Source partition -> offset at which the stream goes on."""
    begins: dict[int, int]
    """Source partition -> offset of the first record in the archive."""
    resumed: int = 0
    """State partitions that an earlier try had completed."""
    events: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    keys: int = 0
    tiles: int = 0
    rows: int = 0
    rows_deleted: int = 0


def backfill(
    settings: Settings,
    plan: Plan,
    view: View,
    from_ms: int | None,
    to_ms: int | None,
    pool: Callable[[], Pool],
    progress: Progress,
    *,
    rows: bool = True,
) -> Backfilled:
    """Build the view's state from its source's archive, and let the view go on with it.

    `pool` is called when there is something to do. Without `rows` none are written, which is for
    the next worker then. Raises ConfigurationError without an archive of
    an archive worker, IntegrityError if the topic no longer holds what comes after it,
    CheckFailedError while feature workers run: then the state waits, complete, for the next call.
    """
    prepared = asyncio.run(prepare_view(settings, plan, view))
    source = view.source
    storage, files = archive_files(source, prepared.source.topic_id)
    fresh = handover_of(source, storage, files, from_ms, to_ms)
    reservation = asyncio.run(_reserved(settings, prepared, fresh))
    handover = reservation.handover
    assert handover is not None
    running = prepared.stage(settings, reservation.number)
    task = Task(view, prepared.source.partitions, prepared.identity.partitions, handover)
    units = units_of(source, storage, files, handover, task.since_ms)
    begins = {p: of_log[0].first for p, of_log in files.items()}
    done = Backfilled(view.name, running.incarnation, dict(handover.offsets), begins)

    complete = asyncio.run(complete_partitions(settings, running.changelog))
    wanted = set(task.built_by(units))
    done.resumed = len(wanted & complete)

    def read(unit_rows: int, piece: Piece) -> None:
        done.events += piece.events
        done.refused.update(piece.refused)
        progress.step(unit_rows)

    if todo := wanted - complete:
        progress.begin("events", sum(unit.rows for unit in units))
        built = pool().build(
            settings, task, running, units, todo, lambda unit, piece: read(unit.rows, piece)
        )
        done.keys = sum(stats.keys for stats in built.values())
        done.tiles = sum(stats.tiles for stats in built.values())
    if running.shuffle is not None:
        topic = prepared.topics.progress
        asyncio.run(write_progress(settings, topic, running, handover))
    _refuse_running_workers(settings, plan, view)
    if not asyncio.run(confirm(settings, prepared.topics.control, reservation)):
        raise IntegrityError(
            f"View {view.name} has begun another incarnation while its state was being built. "
            "Stop the feature workers, and run backfill again."
        )
    if not rows:
        return done
    progress.begin("rows", len(wanted))

    def written(n: int) -> None:
        done.rows += n
        progress.step(1)

    done.rows_deleted = _replace_rows(settings, plan, running, wanted, pool(), written)
    return done


async def _reserved(settings: Settings, prepared: PreparedView, fresh: Handover) -> Claim:
    """The reservation of an earlier try for the same, else a new one."""
    control, view = prepared.topics.control, prepared.view.name
    held = open_reservation(view, prepared.identity, await read_claims(settings, control))
    if held is not None and held.handover is not None:
        asked = (fresh.from_ms, fresh.to_ms)
        same = (held.handover.from_ms, held.handover.to_ms) == asked
        if same and _gap(settings, prepared.view, held.handover) is None:
            return held
    if (gap := _gap(settings, prepared.view, fresh)) is not None:
        raise IntegrityError(gap)
    start = start_text(prepared.view.source)
    return await reserve(settings, control, view, prepared.identity, fresh, start)


def _gap(settings: Settings, view: View, handover: Handover) -> str | None:
    """Why the stream cannot go on there; None if the topic holds all that comes after."""
    topic, admin = view.source.topic, Admin(settings)
    begins, ends = admin.start_offsets(topic), admin.end_offsets(topic)
    for partition, offset in sorted(handover.offsets.items()):
        where = f"{topic}/{partition}"
        if offset < begins[partition]:
            return (
                f"{where} begins at offset {begins[partition]}, and the archive of it is taken up "
                f"to {offset}: what lies between is in neither. Let `streamsvc worker archive` "
                "run until it has caught up, and keep records for longer than it may be away; or "
                "take more of the archive (--to)."
            )
        if offset > ends[partition]:
            return (
                f"{where} ends at offset {ends[partition]}, and its archive at {offset}: the topic "
                "has lost its end. Archive to another path from then on."
            )
    return None


def _refuse_running_workers(settings: Settings, plan: Plan, view: View) -> None:
    """Raise CheckFailedError while feature workers of the project run."""
    running = len(
        Groups(Admin(settings)).members(f"{settings.topic_prefix}streamsvc.{plan.project}.features")
    )
    if running:
        raise CheckFailedError(
            f"The state of {view.name} is built, and {running} feature workers run with the one "
            "before. Stop them and run the same command again, which then only has to switch over; "
            "the workers that are started after it go on from there."
        )


def _replace_rows(
    settings: Settings,
    plan: Plan,
    running: RunningView,
    partitions: Collection[int],
    pool: Pool,
    written: Callable[[int], None],
) -> int:
    """Rows of this incarnation in place of all older ones; how many entities it does not know.

    Markers come last: should it not get that far, the next worker sees that rows may be missing.
    """
    client, name = connect(settings), running.view.name
    publish_layout(client, plan.project, name, running.layout)
    markers = pool.fill(settings, plan.project, running, partitions, written)
    deleted = delete_older(client, plan.project, name, running.incarnation)
    write_markers(client, plan.project, {(name, p): marker for p, marker in markers.items()})
    return deleted
