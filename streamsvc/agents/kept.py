"""Whether the logs still hold what views have to read, and what to do where they do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from streamsvc.errors import IntegrityError

__all__ = ["Kept", "refuse", "why_not_built"]


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


def why_not_built(kept: Kept, view: str, at: int) -> str:
    """Why a new incarnation of a view, of which nothing is served yet, cannot be built on."""
    return (
        f"View {view} cannot be built as it is defined now: it has come to offset {at} of {kept}, "
        f"which begins at {kept.begin} by now. Retention or DeleteRecords have deleted the records "
        "in between. What was served before stays, and other views go on. With an archive of the "
        f"source, `streamsvc backfill {view}` builds it from that; without one, `streamsvc store "
        f"rebuild --from-topic {view}` begins it once more with what the topic holds, which has to "
        "keep records for longer than that takes."
    )


def refuse(kept: Kept, positions: Mapping[str, int]) -> None:
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
