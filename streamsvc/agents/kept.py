"""Whether the logs still hold what views have to read, and what to do where they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from streamsvc.agents.topology import RunningView, States, ViewKey
from streamsvc.errors import IntegrityError
from streamsvc.store.row_store import RowStore

__all__ = ["Kept", "lost_builds", "served_from"]


@dataclass(frozen=True, slots=True)
class Kept:
    """What a broker has of a partition: offsets from `begin` to before `end`."""

    topic: str
    partition: int
    begin: int
    end: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}"

    def deleted(self, at: int) -> bool:
        """Whether a record at this offset or after it was there and is not any more."""
        return at < self.begin


async def lost_builds(
    rows: RowStore,
    state_partitions: Callable[[RunningView], int],
    kept: Kept,
    positions: Sequence[tuple[RunningView, int]],
    states: States,
) -> dict[ViewKey, str]:
    """Of views that go on at these offsets of a partition, the incarnations that cannot be built
    any more, and why; nothing of them is served yet.

    Raises IntegrityError if a view that is served cannot go on.
    """
    lost: dict[ViewKey, str] = {}
    for each, at in positions:
        if not kept.deleted(at) or not each.quiet:
            continue
        if each.shuffle is None:
            unserved = states[(each.key, kept.partition)][1].quiet
        else:
            # A source partition has a part in every state partition.
            name, count = each.view.name, state_partitions(each)
            markers = await asyncio.to_thread(rows.promised, name, range(count))
            unserved = all(m is None or m.incarnation < each.incarnation for m in markers)
        if unserved:
            lost[each.key] = _why_not_built(kept, each.view.name, at)
    _refuse(kept, {each.view.name: at for each, at in positions if each.key not in lost})
    return lost


async def served_from(
    rows: RowStore,
    state_partitions: Callable[[RunningView], int],
    kept: Kept,
    each: RunningView,
) -> int | None:
    """Where a view began in a source partition of which it has committed nothing, if rows that
    contain records of it are served all the same: whoever wrote them ended before the commit.

    It begins once more then, and with the same records, so they have to be there.
    """
    began = max(each.topic_begins.get(kept.partition, 0), each.starts.get(kept.partition, 0))
    if not kept.deleted(began) or not each.topic_begins:
        return None
    topic, partitions = each.view.source.topic, [kept.partition]
    if each.shuffle is not None:
        partitions = list(range(state_partitions(each)))
    markers = await asyncio.to_thread(rows.promised, each.view.name, partitions)
    told = [m for m in markers if m is not None and m.incarnation == each.incarnation]
    served = any(m.applied.get(topic, {}).get(kept.partition, 0) > began for m in told)
    return began if served else None


def _why_not_built(kept: Kept, view: str, at: int) -> str:
    """Why a new incarnation of a view, of which nothing is served yet, cannot be built on."""
    return (
        f"View {view} cannot be built as it is defined now: it has come to offset {at} of {kept}, "
        f"which begins at {kept.begin} by now. Retention or DeleteRecords have deleted the records "
        "in between. What was served before stays, and other views go on. With an archive of the "
        f"source, `streamsvc backfill {view}` builds it from that; without one, `streamsvc store "
        f"rebuild --from-topic {view}` begins it once more with what the topic holds, which has to "
        "keep records for longer than that takes."
    )


def _refuse(kept: Kept, positions: Mapping[str, int]) -> None:
    """Raise IntegrityError unless a log holds what views (name -> next offset) have to read."""
    wrong = sorted(view for view, at in positions.items() if not kept.begin <= at <= kept.end)
    if wrong:
        raise IntegrityError(_why_not(kept, wrong, positions[wrong[0]]))


def _why_not(kept: Kept, views: Sequence[str], at: int) -> str:
    if kept.deleted(at):
        what = (
            f"{kept} begins at offset {kept.begin}, but view {views[0]} goes on at {at}: retention "
            "or DeleteRecords have deleted the records in between unread. Keep them for longer "
            "than workers may be away."
        )
    else:
        what = (
            f"{kept} ends at offset {kept.end}, before {at} where view {views[0]} goes on: the log "
            "has lost its end, and other records will take its offsets."
        )
    return (
        f"{what} What was lost cannot be counted; to begin {', '.join(views)} anew with what the "
        f"topic still holds: `streamsvc store rebuild --from-topic "
        f"{' --from-topic '.join(views)}`, then start the workers again."
    )
