"""One partition on its way into the archive: events are gathered, then become a file.

Which events a file holds is a function of the log between its first and its next offset, so it does
not matter how often, by whom, or in which pieces a partition is read. A writer goes on where the
files of its partition end; what it had gathered and not yet written when it died is read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from streamsvc.archive.merging import due, merge, replaced
from streamsvc.archive.names import ArchiveFile, Log, chain, day_of
from streamsvc.archive.parquet import Footer, read_footer, write_file
from streamsvc.archive.rows import archive_schema, archived_rows
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.definitions.plan import Source
from streamsvc.errors import IntegrityError
from streamsvc.events.decode import Decoder
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.events.wire import Reject
from streamsvc.state.events import SourceClock
from streamsvc.state.source import SourcePartition
from streamsvc.transport.chunk import Chunk

__all__ = ["PartitionWriter"]


class PartitionWriter:
    """Gathers the events of one log. Not thread-safe; times are seconds of any steady clock."""

    def __init__(
        self,
        storage: ArchiveStorage,
        source: Source,
        decoder: Decoder,
        log: Log,
        partitions: int,
        files: Sequence[ArchiveFile],
        span: tuple[int, int],
        *,
        accept_loss: bool = False,
    ) -> None:
        """`files` are those of the log, `span` the offsets that the topic still holds.

        Raises IntegrityError where the topic no longer holds what comes after the files, unless
        `accept_loss` lets the archive go on with what is left.
        """
        self.log = log
        self.rows = 0
        self.bytes = 0
        self.opened_at = float("inf")
        """When the oldest record came that is in no file yet."""
        self._storage = storage
        self._source = source
        self._schema = archive_schema(source)
        self._batches: list[Any] = []
        self._day = ""
        """Day of what was gathered; empty while no record has come since the last file."""
        begin, end = span
        links = chain(files)
        self._first = links[-1].next if links else begin
        self._open_day = links[-1].day if links else ""
        # As listed once, and what we have done since. If another writer does not know yet that it
        # is one no more, its files are none of our business: the next listing settles it.
        self._files = list(files)
        _check(source, log, self._first, begin, end, accept_loss=accept_loss)
        watermark = read_footer(storage, links[-1]).watermark if links else NO_WATERMARK
        self._reader = SourcePartition(source, decoder, log.partition, partitions)
        self._reader.resume(max(self._first, begin), watermark, SourceClock(NO_WATERMARK, False))

    @property
    def next_offset(self) -> int:
        """Offset of the first record that was not taken yet."""
        return self._reader.next_offset

    @property
    def written_until(self) -> int:
        """Offset of the first record that is in no file yet."""
        return self._first

    def day_ends_before(self, chunk: Chunk) -> bool:
        """Whether a chunk begins on another day than what was gathered: it has to be written."""
        return bool(self._day) and day_of(int(chunk.timestamps[0]), self._day) != self._day

    def unread(self, chunk: Chunk) -> Chunk | None:
        """The part of a chunk that was not taken yet, or None."""
        return self._reader.unread(chunk)

    def take(self, chunk: Chunk, now_s: float) -> list[Reject]:
        """Gather the events of an unread chunk; returns its records that are none."""
        if not self._day:
            self._day = self._open_day = day_of(int(chunk.timestamps[0]), self._open_day)
            self.opened_at = now_s
        watermark = self._reader.watermark
        events = self._reader.read(chunk)
        batch = archived_rows(self._source, events, chunk.timestamps, watermark, self._schema)
        self._batches.append(batch)
        self.rows += len(batch)
        self.bytes += batch.nbytes
        return [reject for reject in events.rejects if reject.reason != "late"]

    def write(self, now_s: float) -> ArchiveFile | None:
        """Make a file of what was gathered; None if no record has come. Wall time."""
        if not self._day:
            return None
        file = ArchiveFile(self.log, self._first, self.next_offset, self._day)
        footer = Footer(self._source.topic, self._reader.watermark)
        size = write_file(self._storage, file, footer, self._schema, self._batches)
        file = replace(file, size=size, written_s=now_s)
        self._files.append(file)
        self._first = file.next
        self._batches, self._day = [], ""
        self.rows = self.bytes = 0
        self.opened_at = float("inf")
        return file

    def tidy(self, target_bytes: int, grace_s: float, now_s: float) -> int:
        """Merge neighbours of which enough have come together, and delete files that were replaced
        longer ago than the grace; returns how many files were merged. Wall time.

        A day is over once a file of a later one was written.
        """
        merged = 0
        newest = max((file.day for file in self._files), default="")
        for day in sorted({file.day for file in self._files}):
            while run := due(self._of(day), target_bytes, over=day < newest):
                file = merge(self._storage, run, now_s)
                if file is None:
                    break
                merged += len(run)
                self._files.append(file)
        gone = [file for file, at in replaced(self._files) if at <= now_s - grace_s]
        self._storage.delete(gone)
        self._files = [file for file in self._files if file not in gone]
        return merged

    def _of(self, day: str) -> list[ArchiveFile]:
        return [file for file in chain(self._files) if file.day == day]


def _check(
    source: Source, log: Log, position: int, begin: int, end: int, *, accept_loss: bool
) -> None:
    where = f"Topic {source.topic} partition {log.partition}"
    if position > end:
        raise IntegrityError(
            f"{where} ends at offset {end}, and its archive {source.archive_path} goes on to "
            f"{position}: the broker has lost records that were archived, and gives their offsets "
            "to others. Archive to another path from then on."
        )
    if position < begin and not accept_loss:
        raise IntegrityError(
            f"{where} begins at offset {begin}, and its archive {source.archive_path} ends at "
            f"{position}: retention deleted the records in between before they were archived. "
            "Start with --accept-loss to go on without them, and raise the topic's retention."
        )
