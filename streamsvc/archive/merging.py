"""Small files into large ones, by the worker that writes the log, while others read.

The merged file is there before those that it replaces go. Until then, and if the worker is killed
in between, the chain settles which of them count. Those that do not are deleted once they have been
out of it for a while: whoever listed the files before the merge is still reading them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from streamsvc.archive.names import ArchiveFile, chain
from streamsvc.archive.parquet import read_footer, write_file
from streamsvc.archive.reading import read_batches
from streamsvc.archive.storage import ArchiveStorage

__all__ = ["due", "merge", "replaced"]

RUN: Final = 8
"""Neighbours that are worth a merge."""


def replaced(files: Sequence[ArchiveFile]) -> list[tuple[ArchiveFile, float]]:
    """Files of one log that do not count, each with when the last one was written that does in its
    place (seconds since 1970).
    """
    links = chain(files)
    counting = {file.name for file in links}
    return [
        (file, max((f.written_s for f in links if f.next > file.first), default=file.written_s))
        for file in files
        if file.name not in counting
    ]


def due(files: Sequence[ArchiveFile], target_bytes: int, *, over: bool) -> list[ArchiveFile]:
    """The neighbours among files of a chain of one day that are to become one; none if it can wait.

    From the newest back, a file joins the run unless it is twice as large as all of the run: so an
    event is written again only when its file grows by half. At RUN files the run is merged; when
    the day is `over`, and no more will come, at two, whatever their sizes. No run holds more than
    `target_bytes`.
    """
    enough = 2 if over else RUN
    run: list[ArchiveFile] = []
    held = 0
    for file in reversed(files):
        fits = held + file.size <= target_bytes and (not run or file.next == run[0].first)
        if run and not (fits and (over or file.size <= 2 * held)):
            if len(run) >= enough or not over:
                break
            run, held = [], 0
        run.insert(0, file)
        held += file.size
    return run if len(run) >= enough else []


def merge(
    storage: ArchiveStorage, files: Sequence[ArchiveFile], now_s: float
) -> ArchiveFile | None:
    """Write neighbouring files of one day as one; returns it.

    None if their columns do not go together, because a field's type was changed: then they stay.
    """
    first, last = files[0], files[-1]
    try:
        schema = pa.unify_schemas([_schema(storage, file) for file in files])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return None
    target = ArchiveFile(first.log, first.first, last.next, first.day)
    batches = read_batches(storage, files, schema)
    size = write_file(storage, target, read_footer(storage, last), schema, batches)
    return replace(target, size=size, written_s=now_s)


def _schema(storage: ArchiveStorage, file: ArchiveFile) -> Any:
    with storage.open(file) as stream:
        return pq.read_schema(stream).remove_metadata()
