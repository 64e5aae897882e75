"""What of an archive a backfill takes: of each partition of the topic all events up to an offset.

At that offset the stream goes on, with the greatest event time before it: what `SourcePartition`
would know had it read the topic itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamsvc.archive.names import ArchiveFile, Log, chain, logs_of
from streamsvc.archive.parquet import read_footer
from streamsvc.archive.reading import opened
from streamsvc.archive.rows import OFFSET, WATERMARK, time_column
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.definitions.plan import Source
from streamsvc.errors import ConfigurationError, IntegrityError
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.feast.arrow_columns import epoch_ms
from streamsvc.state.incarnations import Handover

__all__ = ["ArchiveFiles", "Unit", "archive_files", "handover_of", "units_of"]

UNIT_ROWS = 1 << 21
"""Events that are worked on in one piece, about."""

ArchiveFiles = Mapping[int, Sequence[ArchiveFile]]
"""Partition -> the files that count, in the order of the log."""


@dataclass(frozen=True, slots=True)
class Unit:
    """Neighbouring row groups of one partition."""

    partition: int
    until: int
    """Source offset at which to end."""
    parts: tuple[tuple[ArchiveFile, tuple[int, ...]], ...]
    """Files, with the row groups of each."""
    rows: int


def archive_files(source: Source, topic_id: str) -> tuple[ArchiveStorage, ArchiveFiles]:
    """What an archive worker has written of a topic.

    Raises ConfigurationError where it has written nothing: without offsets nobody can say where in
    the topic an archive ends.
    """
    path = source.archive_path
    if path is None:
        raise ConfigurationError(
            f"KafkaSource {source.name!r} has no archive: set its batch_source to a FileSource "
            "whose path is a directory, and run `streamsvc worker archive`"
        )
    files: dict[int, list[ArchiveFile]] = {}
    if source.archive_is_directory:
        storage = ArchiveStorage(path, source.archive_endpoint)
        for log, of_log in logs_of(storage.files()).items():
            if log == Log.of(topic_id, log.partition):
                files[log.partition] = chain(of_log)
    if not files:
        raise ConfigurationError(
            f"{path} holds no file that `streamsvc worker archive` wrote of {source.topic!r} as it "
            "is now. Only such an archive says at which offset it ends, so that the stream can go "
            "on there; from any other, events would be counted twice or not at all. For a view's "
            "values at some instant, `feast materialize` takes any archive."
        )
    return storage, files


def handover_of(
    source: Source,
    storage: ArchiveStorage,
    files: ArchiveFiles,
    from_ms: int | None,
    to_ms: int | None,
) -> Handover:
    """Where the stream goes on after the archive, or after its events before `to_ms`."""
    offsets, watermarks = {}, {}
    for partition, of_log in files.items():
        found = None if to_ms is None else _first_from(source, storage, of_log, to_ms)
        if found is None:
            found = of_log[-1].next, read_footer(storage, of_log[-1]).watermark
        if found[0] > of_log[0].first:
            offsets[partition], watermarks[partition] = found
    return Handover(offsets, watermarks, from_ms, to_ms)


def _first_from(
    source: Source, storage: ArchiveStorage, files: Sequence[ArchiveFile], to_ms: int
) -> tuple[int, int] | None:
    """The first event of a log at `to_ms` or later: its offset, and the watermark before it."""
    name = time_column(source)
    for file in files:
        with opened(storage, file) as parquet:
            for group in range(parquet.num_row_groups):
                newest = _newest(parquet, group, name)
                if newest is not None and newest < to_ms:
                    continue
                table = parquet.read_row_group(group, columns=[name, OFFSET, WATERMARK])
                later = np.flatnonzero(epoch_ms(table.column(name)).values >= to_ms)
                if len(later):
                    row = int(later[0])
                    before = epoch_ms(table.column(WATERMARK))
                    mark = int(before.values[row]) if before.valid[row] else NO_WATERMARK
                    return table.column(OFFSET)[row].as_py(), mark
    return None


def units_of(
    source: Source,
    storage: ArchiveStorage,
    files: ArchiveFiles,
    handover: Handover,
    since_ms: Callable[[int], int],
) -> list[Unit]:
    """The pieces of work: all events before the hand-over, without row groups all of which happened
    before the instant that `since_ms` gives for their partition.

    Raises IntegrityError if the archive ends before the hand-over, as it does after files were
    deleted.
    """
    name = time_column(source)
    units: list[Unit] = []
    for partition, until in sorted(handover.offsets.items()):
        of_log = files.get(partition, ())
        if not of_log or of_log[-1].next < until:
            raise IntegrityError(
                f"{storage.path}: the files of partition {partition} end before offset {until}, up "
                "to which a backfill has begun to build. Files were deleted since: begin anew "
                "with other --from or --to, or put them back."
            )
        taken = [file for file in of_log if file.first < until]
        units += _packed(partition, until, _groups(storage, taken, name, since_ms(partition)))
    return units


def _groups(
    storage: ArchiveStorage, files: Sequence[ArchiveFile], name: str, since_ms: int
) -> Iterator[tuple[ArchiveFile, int, int]]:
    """Row groups that matter: file, number, rows."""
    for file in files:
        with opened(storage, file) as parquet:
            for group in range(parquet.num_row_groups):
                newest = _newest(parquet, group, name)
                if newest is None or newest >= since_ms:
                    yield file, group, parquet.metadata.row_group(group).num_rows


def _packed(
    partition: int, until: int, groups: Iterator[tuple[ArchiveFile, int, int]]
) -> Iterator[Unit]:
    held: dict[ArchiveFile, list[int]] = {}
    rows = 0
    for file, group, n in groups:
        held.setdefault(file, []).append(group)
        rows += n
        if rows >= UNIT_ROWS:
            yield _unit(partition, until, held, rows)
            held, rows = {}, 0
    if held:
        yield _unit(partition, until, held, rows)


def _unit(partition: int, until: int, held: Mapping[ArchiveFile, list[int]], rows: int) -> Unit:
    return Unit(partition, until, tuple((f, tuple(g)) for f, g in held.items()), rows)


def _newest(parquet: Any, group: int, name: str) -> int | None:
    """The greatest event time of a row group, None where its writer did not say."""
    described = parquet.metadata.row_group(group)
    at = parquet.schema_arrow.get_field_index(name)
    statistics = described.column(at).statistics
    if statistics is None or not statistics.has_min_max:
        return None
    return int(statistics.max.timestamp() * 1_000) + 1
