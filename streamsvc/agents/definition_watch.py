"""Notices `feast apply` while a worker runs.

A look costs a stat or a row, whatever the registry's size. What cannot be read or does not compile
changes nothing: the worker goes on with what it has, and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from pathlib import Path

import structlog
from prometheus_client import Counter

from streamsvc.definitions.plan import Plan
from streamsvc.definitions.registry import load_plan
from streamsvc.definitions.version import AppliedVersion
from streamsvc.errors import StreamsvcError, UnavailableError
from streamsvc.settings import Settings

__all__ = ["Definitions", "watch_definitions"]

log = structlog.get_logger(__name__)

Look = tuple[Hashable, Hashable]

REFUSED_AGAIN_S = 30.0
"""What was refused is tried again: a topic or a right may have been missing that is there now."""


class Definitions:
    """The applied definitions of a repo, and what else decides how they run."""

    def __init__(self, settings: Settings, repo: Path) -> None:
        """Reads the definitions; raises what `load_plan` does."""
        self._settings = settings
        self._repo = repo
        self._version = AppliedVersion(repo)
        self._beside: Callable[[], Hashable] = lambda: None
        self.seen: Look = self.look()
        self.plan: Plan = load_plan(repo, settings.max_future_ms)

    def watch_beside(self, beside: Callable[[], Hashable]) -> None:
        """Look at something else, too: a change of it counts, though of the same definitions."""
        self._beside = beside
        self.seen = self.seen[0], beside()

    def look(self) -> Look:
        """Equal as long as nothing has changed. Blocking."""
        return self._version.read(), self._beside()

    def load(self, look: Look) -> Plan:
        """The definitions as of this look, compiled anew if they are others. Blocking."""
        if look[0] != self.seen[0]:
            self.plan = load_plan(self._repo, self._settings.max_future_ms)
        return self.plan


async def watch_definitions(
    settings: Settings,
    definitions: Definitions,
    changed: Callable[[Plan], Awaitable[None]],
    outcomes: Counter,
) -> None:
    """Hand every new plan to `changed`, which raises a StreamsvcError to refuse it. Never returns.

    A look that sees a change waits for the next one to see the same: a registry of rows, or one
    that is just being written, would show half of it.
    """
    before, told = definitions.seen, ""
    clock, refused_at = asyncio.get_running_loop().time, None
    while True:
        await asyncio.sleep(settings.definitions_interval_s)
        try:
            now = await asyncio.to_thread(definitions.look)
            again = refused_at is not None and clock() >= refused_at + REFUSED_AGAIN_S
            if (now == definitions.seen and not again) or now != before:
                before = now
                continue
            plan = await asyncio.to_thread(definitions.load, now)
            await changed(plan)
        except Exception as error:  # noqa: BLE001 - whatever a registry's client raises
            refused = isinstance(error, StreamsvcError) and not isinstance(error, UnavailableError)
            if str(error) != told:
                told = str(error)
                outcomes.labels("refused" if refused else "unreadable").inc()
                kind = type(error).__name__
                log.error(
                    "definitions_refused" if refused else "definitions_unreadable",
                    error=told,
                    kind=kind,
                    action="goes on with those that it has",
                )
            if refused:
                definitions.seen, refused_at = now, clock()
            continue
        if now[0] != definitions.seen[0] or refused_at is not None:
            outcomes.labels("applied").inc()
        definitions.seen, told, refused_at = now, "", None
