"""What a flush takes out of the state of a partition."""

from __future__ import annotations

from dataclasses import dataclass

from streamsvc.columns import I64
from streamsvc.features.emission import Emitted, EventRows
from streamsvc.state.changelog import Commit

__all__ = ["Cut", "EventsOf"]


@dataclass(frozen=True, slots=True, eq=False)
class EventsOf:
    """The row of each event of a part of the input log."""

    of: EventRows
    applied: I64
    """An offset of the input log by each row, everything below which it contains."""


@dataclass(frozen=True, slots=True)
class Cut:
    """What one flush writes for one partition: rows, then the marker, then perhaps a commit."""

    partition: int
    incarnation: int
    emissions: tuple[Emitted, ...]
    applied: int
    """Next offset of the input log; leads the position of every row in the cut."""
    sources: dict[int, int]
    """Next source offset by source partition: what the rows in the store now contain."""
    clock_ms: int
    commit: Commit | None
    quiet: bool = False
    """The rows wait: there are none, and the marker is another incarnation's."""
    events: tuple[EventsOf, ...] = ()
    """What was applied since the last cut, where each event counts; before all rows."""
    rows_untold: bool = False
    """Rows say what `events` do not, and not only by what has left a window."""
