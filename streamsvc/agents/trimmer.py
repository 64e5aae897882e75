"""Keeps changelogs short: deletes what no restore will need (see `state.trimming` for why it may).

A log that cannot be trimmed only grows, so nothing here ends a worker but one thing: a partition
that somebody else opened, and that the group goes on giving to us.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings
from streamsvc.state.changelog import Commit
from streamsvc.state.restore import opened_since
from streamsvc.state.trimming import Trimming
from streamsvc.transport.admin import Admin

__all__ = ["Appended", "Trimmer"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Appended:
    """A commit that is in the log: of so many records, the last of them at offset `last`."""

    view: str
    changelog: str
    partition: int
    trimming: Trimming
    commit: Commit
    last: int
    records: int


class Trimmer:
    """Hears of every commit that is acknowledged."""

    def __init__(self, settings: Settings, owner: str, metrics: FeatureMetrics) -> None:
        self._settings = settings
        self._owner = owner
        self._metrics = metrics
        self._admin = Admin(settings)
        self._deleting = False
        # After two sessions the group has either taken the partition away, or means it.
        self._patience = -(-2 * settings.session_timeout_ms // settings.commit_interval_ms)

    async def committed(self, commits: Sequence[Appended]) -> None:
        """Take note of commits; look at a log to which somebody else wrote.

        Raises UnavailableError for a partition that was lost to another worker long ago.
        """
        for each in commits:
            begins, ends = each.commit.begins_round, each.commit.ends_round
            if not each.trimming.committed(each.last, each.records, begins=begins, ends=ends):
                await self._look(each)
            if each.trimming.void_commits > self._patience:
                raise UnavailableError(
                    f"{each.changelog}/{each.partition} was opened by another worker after us, so "
                    "nothing that we commit counts, and yet the group goes on giving it to us. "
                    "Start this worker again: it goes on from the last commit that counts."
                )

    async def _look(self, each: Appended) -> None:
        known = {each.partition: each.trimming.known}
        found = await opened_since(self._settings, each.changelog, self._owner, known)
        end, opened = found[each.partition]
        each.trimming.looked(end, superseded=opened)
        log.warning(
            "changelog_shared", changelog=each.changelog, partition=each.partition, lost=opened
        )

    async def trim(self, commits: Sequence[Appended]) -> None:
        """Delete what is no longer needed; a failure is counted, and that is all.

        While one deletion is under way, others wait for a later commit.
        """
        if self._deleting:
            return
        views: dict[str, str] = {}
        before: defaultdict[str, dict[int, int]] = defaultdict(dict)
        for each in commits:
            offset = each.trimming.take()
            if offset is not None:
                views[each.changelog] = each.view
                before[each.changelog][each.partition] = offset
        self._deleting = True
        for changelog, offsets in before.items():
            try:
                await asyncio.to_thread(self._admin.delete_records, changelog, offsets)
            except (ConfigurationError, UnavailableError) as error:
                self._metrics.trims_failed.labels(views[changelog]).inc(len(offsets))
                log.warning("changelog_not_trimmed", changelog=changelog, error=str(error))
            else:
                self._metrics.trims.labels(views[changelog]).inc(len(offsets))
        self._deleting = False
