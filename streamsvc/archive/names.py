"""What the files of an archive are called, and which of their rows count.

    <archive>/arrived=2026-11-22/00002-00000000000000004711-00000000000000009000-Xb3kQz0p….parquet

A file holds the events of partition 2 among the offsets 4711 … 8999 of the topic with that id, in
the order of the log. The directory is the day (UTC) on which its first record arrived; a record
from before midnight that comes in after one from behind it does not open the old day again.

The names are the archive's only index, and what makes it exactly once. What a range of offsets
holds is a function of the log, and a writer goes on where the files of its log end; so each file
begins where another one ends, and those that count are a `chain` of neighbours. Files that overlap
it (small ones that were merged, or the last one of a writer that was paused while another took
over) hold nothing that the chain does not.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

__all__ = ["ArchiveFile", "Log", "chain", "day_of", "logs_of", "parse_name"]

DAY_PREFIX: Final = "arrived="
_LAST_MS: Final = 253_370_764_800_000  # the year 9999
_NAME: Final = re.compile(r"(\d{5,})-(\d{20})-(\d{20})-([\w-]+)\.parquet")


@dataclass(frozen=True, slots=True, order=True)
class Log:
    """One partition of one incarnation of a topic."""

    topic_id: str
    """In the alphabet of file names, as `of` gives it."""
    partition: int

    @classmethod
    def of(cls, topic_id: str, partition: int) -> Log:
        """The log of a topic whose id is as Kafka's clients write it, in base 64."""
        return cls(topic_id.translate(str.maketrans("+/", "-_", "=")), partition)


@dataclass(frozen=True, slots=True)
class ArchiveFile:
    """One file: the offsets [first, next) of a log."""

    log: Log
    first: int
    next: int
    day: str
    """Name of its directory."""
    size: int = 0
    """Bytes."""
    written_s: float = 0.0
    """When it was written, seconds since 1970."""

    @property
    def name(self) -> str:
        """Path below the archive's root."""
        span = f"{self.log.partition:05d}-{self.first:020d}-{self.next:020d}"
        return f"{self.day}/{span}-{self.log.topic_id}.parquet"


def parse_name(directory: str, base: str, size: int, written_s: float) -> ArchiveFile | None:
    """The file that is so called, in a directory of that name; None for anything else."""
    found = _NAME.fullmatch(base)
    if found is None or not directory.startswith(DAY_PREFIX):
        return None
    partition, first, after, topic_id = found.groups()
    log = Log(topic_id, int(partition))
    return ArchiveFile(log, int(first), int(after), directory, size, written_s)


def day_of(timestamp_ms: int, open_day: str = "") -> str:
    """The directory for a record with this Kafka timestamp that comes after files of `open_day`."""
    instant = datetime.fromtimestamp(min(max(timestamp_ms, 0), _LAST_MS) / 1000, UTC)
    days = [f"{DAY_PREFIX}{at:%Y-%m-%d}" for at in (instant, instant + timedelta(days=1))]
    return open_day if open_day in days else days[0]


def logs_of(files: Iterable[ArchiveFile]) -> Mapping[Log, list[ArchiveFile]]:
    """The files of each log."""
    found: defaultdict[Log, list[ArchiveFile]] = defaultdict(list)
    for file in files:
        found[file.log].append(file)
    return found


def chain(files: Iterable[ArchiveFile]) -> list[ArchiveFile]:
    """The files of one log that together hold each of its archived events once, in its order.

    From the first offset on, the neighbours that lead furthest, in as few files as can be.
    """
    starts: defaultdict[int, list[ArchiveFile]] = defaultdict(list)
    reach: dict[int, int] = {}
    for file in sorted(files, key=lambda f: f.first, reverse=True):
        starts[file.first].append(file)
        leads = reach.get(file.next, file.next)
        reach[file.first] = max(reach.get(file.first, leads), leads)
    chosen: list[ArchiveFile] = []
    position = min(starts, default=0)
    while position in starts:
        best = max(starts[position], key=lambda f: (reach.get(f.next, f.next), f.next))
        chosen.append(best)
        position = best.next
    return chosen
