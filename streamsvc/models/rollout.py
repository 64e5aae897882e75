"""What runs for a service, and how that may change: the state machine of a rollout.

One record of the rollout topic is one *revision* of a service: all that is to run from then on. A
change is a new revision with the next number, never an edit, so the revisions are the audit trail,
too. Of two that claim the same number the first in the log holds, as with incarnations: a person
and a controller that act at the same instant cannot both have their way, and the second is told.

    steady ──start──► running ──promote──► steady         the candidate is champion
                      │  ▲  └────undo────► steady         the champion has all traffic again
                    pause resume
                      ▼  │
                      paused ── promote, undo as above
    steady ──undo───► steady                              the champion before is champion again

Nothing in here knows a client or a clock.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from streamsvc.errors import ConfigurationError

__all__ = [
    "Action",
    "Candidate",
    "Mode",
    "Revision",
    "Status",
    "Words",
    "pause",
    "promote",
    "resume",
    "start",
    "undo",
    "weigh",
]

Mode: TypeAlias = Literal["shadow", "canary", "arm"]
"""`shadow` is scored after the answer is out; `canary` answers for a share that is to grow; `arm`
for one that stays, to compare."""
Status: TypeAlias = Literal["steady", "running", "paused"]
Action: TypeAlias = Literal["start", "weigh", "pause", "resume", "promote", "undo"]


class Candidate(msgspec.Struct, frozen=True):
    """The version that is tried beside the champion."""

    version: int
    mode: Mode
    weight: float
    """Per cent of the entities that it answers for; of a shadow, those that it is asked about."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 100:
            raise ConfigurationError(
                f"A weight is per cent of the traffic, 0 to 100, not {self.weight:g}."
            )


class Words(msgspec.Struct, frozen=True):
    """Who made a change, when and why."""

    who: str
    at_ms: int
    why: str


class Revision(msgspec.Struct, frozen=True):
    """What is to run for a service from one change to the next."""

    service: str
    revision: int
    """0 is what runs before anybody said anything, which is never written."""
    champion: int
    model: str = ""
    """What the versions are of. A route that names another model by now is not concerned."""
    action: Action = "promote"
    who: str = ""
    at_ms: int = 0
    why: str = ""
    status: Status = "steady"
    candidate: Candidate | None = None
    salt: str = ""
    """Of the experiment: goes into the hash that assigns entities, so that two experiments divide
    them independently."""
    previous: int | None = None
    """The champion before, which `undo` brings back."""
    policy: dict[str, Any] | None = None
    """What the controller decides by; None where nobody but people decides."""

    @classmethod
    def unwritten(cls, service: str, champion: int, model: str = "", after: int = 0) -> Revision:
        """What runs for a service that has no record for its model, `after` so many for others."""
        return cls(service, after, champion, model)

    def concerns(self, model: str) -> bool:
        """Whether it says what runs for a route that names this model."""
        return self.model in ("", model)

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that must be loaded, the champion first."""
        return (self.champion,) + (() if self.candidate is None else (self.candidate.version,))


def start(
    now: Revision,
    candidate: Candidate,
    words: Words,
    *,
    salt: str,
    policy: dict[str, Any] | None = None,
) -> Revision:
    """Try a version beside the champion. Raises ConfigurationError if one is being tried."""
    if now.candidate is not None:
        raise ConfigurationError(
            f"Version {now.candidate.version} of service {now.service!r} is being tried: "
            "`streamsvc rollout promote` or `undo` it first."
        )
    if candidate.version == now.champion:
        raise ConfigurationError(
            f"Version {candidate.version} is the champion of service {now.service!r} already."
        )
    return _next(
        now, "start", words, status="running", candidate=candidate, salt=salt, policy=policy
    )


def weigh(now: Revision, weight: float, words: Words, *, mode: Mode | None = None) -> Revision:
    """Give the candidate another weight, or another mode as well.

    Raises ConfigurationError unless a rollout is running.
    """
    candidate = _candidate(now)
    if now.status != "running":
        raise ConfigurationError(
            f"The rollout of service {now.service!r} is paused: `streamsvc rollout resume` first."
        )
    changed = Candidate(candidate.version, mode or candidate.mode, weight)
    return _next(now, "weigh", words, candidate=changed)


def pause(now: Revision, words: Words) -> Revision:
    """Leave traffic as it is until somebody resumes. Raises ConfigurationError unless running."""
    _candidate(now)
    if now.status == "paused":
        raise ConfigurationError(f"The rollout of service {now.service!r} is paused already.")
    return _next(now, "pause", words, status="paused")


def resume(now: Revision, words: Words) -> Revision:
    """Go on after a pause. Raises ConfigurationError unless paused."""
    _candidate(now)
    if now.status != "paused":
        raise ConfigurationError(f"The rollout of service {now.service!r} is not paused.")
    return _next(now, "resume", words, status="running")


def promote(now: Revision, words: Words, *, version: int | None = None) -> Revision:
    """Make the candidate champion, or a version that is named while none is being tried.

    Raises ConfigurationError if there is nothing to promote.
    """
    if version is None:
        version = _candidate(now).version
    elif now.candidate is not None and version != now.candidate.version:
        raise ConfigurationError(
            f"Version {now.candidate.version} of service {now.service!r} is being tried: promote "
            "or undo it before another one."
        )
    if version == now.champion:
        raise ConfigurationError(
            f"Version {version} is the champion of service {now.service!r} already."
        )
    return _steady(now, "promote", words, champion=version, previous=now.champion)


def undo(now: Revision, words: Words) -> Revision:
    """Back to the champion alone; where it is alone, to the champion before.

    Undoing twice in a row returns to the start, as with `kubectl rollout undo`. Raises
    ConfigurationError if there is nothing to undo.
    """
    if now.candidate is not None:
        return _steady(now, "undo", words, champion=now.champion, previous=now.previous)
    if now.previous is None:
        raise ConfigurationError(
            f"Service {now.service!r} has had no other champion: there is nothing to undo."
        )
    return _steady(now, "undo", words, champion=now.previous, previous=now.champion)


def _candidate(now: Revision) -> Candidate:
    if now.candidate is None:
        raise ConfigurationError(
            f"No version of service {now.service!r} is being tried: "
            "`streamsvc rollout start` begins to."
        )
    return now.candidate


def _steady(now: Revision, action: Action, words: Words, **changed: Any) -> Revision:
    return _next(
        now, action, words, status="steady", candidate=None, salt="", policy=None, **changed
    )


def _next(now: Revision, action: Action, words: Words, **changed: Any) -> Revision:
    return msgspec.structs.replace(
        now,
        revision=now.revision + 1,
        action=action,
        who=words.who,
        at_ms=words.at_ms,
        why=words.why,
        **changed,
    )
