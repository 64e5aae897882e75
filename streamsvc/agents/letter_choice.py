"""Which dead letters may be sent again, and why the others had better not.

A record that is sent again is a new event. If anything has counted the old one, it would count
twice:

- It was sent again before, or was refused again after that.
- A view refused it that is not the only one of its topic: the others have counted it.
- A view of its topic was rebuilt since. It has read the topic again, and what it refuses now has a
  newer letter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

from streamsvc.agents.letters import Letter, Letters, Position

__all__ = ["BY_A_VIEW", "Choice", "Chosen", "choose"]

BY_A_VIEW: Final = frozenset({"null_entity", "udf_failed"})
"""Reasons that concern one view: others of the topic may have used the record."""

AGAIN: Final = "sent again before, and refused again (--again sends them once more)"
COUNTED: Final = "refused by one of several views, so that others have counted them (--counted)"
REBUILT: Final = "older than a rebuild, which has read their topic again (--counted)"
LATE: Final = "late, and would be so again: event time in a partition never goes back (--counted)"


@dataclass(frozen=True, slots=True)
class Choice:
    """What somebody asked for. Empty collections and None stand for all."""

    reasons: Collection[str] = ()
    positions: Collection[Position] = ()
    from_ms: int | None = None
    until_ms: int | None = None
    """Bounds on the Kafka timestamp of the record that was refused."""
    again: bool = False
    counted: bool = False

    def takes(self, letter: Letter) -> bool:
        """Whether this letter is asked for."""
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.positions or bool({letter.source, letter.place} & {*self.positions}))
            and (self.from_ms is None or letter.source_ms >= self.from_ms)
            and (self.until_ms is None or letter.source_ms < self.until_ms)
        )


@dataclass(slots=True)
class Chosen:
    """Letters of one topic to be sent again, and by reason why not how many of those asked for."""

    letters: list[Letter] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)


def choose(
    letters: Letters, choice: Choice, *, views: int, rebuilt_ms: int, corrected: bool
) -> Chosen:
    """The letters asked for that may go.

    `views` read the topic; `rebuilt_ms` is when the last of them was claimed (Kafka timestamp, ms).
    `corrected` records are others than those refused, so they may be late or refused before.
    """
    found = Chosen()
    for letter in filter(choice.takes, letters.open):
        why = _objection(letter, choice, views, rebuilt_ms, corrected)
        if why is None:
            found.letters.append(letter)
        else:
            found.left_out[why] += 1
    return found


def _objection(
    letter: Letter, choice: Choice, views: int, rebuilt_ms: int, corrected: bool
) -> str | None:
    if letter.replays and not (choice.again or corrected):
        return AGAIN
    if choice.counted:
        return None
    if letter.reason in BY_A_VIEW and views > 1:
        return COUNTED
    if letter.refused_ms < rebuilt_ms:
        return REBUILT
    return LATE if letter.reason == "late" and not corrected else None
