"""An archive of any size in slices of time, each of which fits the memory it is given.

A small archive is one slice. For a larger one the times are read first; they say where to cut, and
which row groups each slice needs. An archive that is more or less in the order of time is then read
once, row group by row group. One that is not (sorted by entity, say) is sorted into the slices on
local disk first, because every slice would have to read all of it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamsvc.columns import I64
from streamsvc.definitions.plan import Source
from streamsvc.errors import ConfigurationError
from streamsvc.feast.archive import Archive, ArchiveReader
from streamsvc.feast.archive_files import open_archive

__all__ = ["ArchiveSlices"]

_BATCH_ROWS = 1 << 17
# Few are read ahead, because each may be large.
_READ_AHEAD = {"batch_readahead": 2, "fragment_readahead": 1}
_SAMPLE_EVERY = 64
_BEGINNING, _END = -(2**62), 2**62
# Bytes that an event takes on its way: its place in the sorted order, its key, its words; and how
# often its own columns are there at once (as files give them, as columns, as rows of a view).
_OVERHEAD_BYTES, _COPIES = 300, 4
# How often the average row group may be read, before sorting the archive on disk is cheaper.
_READS = 3.0
_MOST_FILES = 500


@dataclass(frozen=True, slots=True)
class _Part:
    """A row group, and from when to when its events became known."""

    fragment: Any
    rows: int
    first: int
    last: int


class ArchiveSlices:
    """The events that happened from `from_ms` on and were known by `until_ms`, as a context manager
    that can be iterated again and again.

    Iterating gives (events, until): all events known before `until` that no slice before has given,
    and None for `until` with the last. Raises ConfigurationError if the archive cannot be read.
    """

    def __init__(
        self, source: Source, fields: Iterable[str], from_ms: int, until_ms: int, memory: int
    ) -> None:
        """`memory` is in bytes: about what working on a slice may take."""
        self._source = source
        self._span = from_ms, until_ms
        self._files = open_archive(source)
        self._reader = ArchiveReader(source, fields, self._files.schema.names)
        self._cuts: list[int] = []
        self._spilled = ExitStack()
        head = self._files.head(1_000, columns=self._reader.columns, **_READ_AHEAD)
        width = _OVERHEAD_BYTES + _COPIES * head.nbytes / max(head.num_rows, 1)
        self._rows = max(int(memory / width), 1)
        if self._files.count_rows() <= self._rows:
            self._parts = [_Part(f, 0, _BEGINNING, _END - 1) for f in self._files.get_fragments()]
            return
        self._parts, sample = self._index()
        count = math.ceil(sum(part.rows for part in self._parts) / self._rows)
        if count > 1:
            chosen = np.linspace(0, len(sample), count, endpoint=False).astype(np.int64)[1:]
            self._cuts = np.unique(np.sort(sample)[chosen]).tolist()

    def __enter__(self) -> ArchiveSlices:
        if self._reads() > _READS:
            if len(self) > _MOST_FILES:
                raise ConfigurationError(
                    f"{self._source.archive_path} is not in the order of time, and {len(self)} "
                    f"slices of it are more than can be sorted at once: set history_memory_mb to "
                    f"{len(self) / _MOST_FILES:.1f} times what it is, or write the archive in the "
                    "order of time"
                )
            with ExitStack() as stack:
                directory = tempfile.TemporaryDirectory(prefix="streamsvc-archive-")
                self._parts = self._sorted_into(Path(stack.enter_context(directory)))
                self._spilled = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._spilled.close()

    def __len__(self) -> int:
        """How many slices there are."""
        return len(self._cuts) + 1

    def __iter__(self) -> Iterator[tuple[Archive, int | None]]:
        edges = [_BEGINNING, *self._cuts, _END]
        first = 0
        for i in range(len(self)):
            table = self._slice(edges[i], edges[i + 1])
            archive = self._reader.read(table, *self._span, first)
            first += table.num_rows
            del table
            yield archive, None if i == len(self._cuts) else edges[i + 1]
            del archive  # before the next one is read

    def _index(self) -> tuple[list[_Part], I64]:
        """The row groups with events in the span, and some of the times at which they are known."""
        parts: list[_Part] = []
        sample: list[I64] = []
        for file in self._files.get_fragments():
            for fragment in file.split_by_row_group():
                rows, first, last = 0, _END, _BEGINNING
                for table in self._tables(fragment, self._reader.time_columns):
                    times = self._reader.instants(table)
                    known = times.known[times.within(*self._span)]
                    if len(known):
                        rows += len(known)
                        first, last = min(first, int(known.min())), max(last, int(known.max()))
                        sample.append(known[::_SAMPLE_EVERY])
                if rows:
                    parts.append(_Part(fragment, rows, first, last))
        return parts, np.concatenate(sample) if sample else np.empty(0, np.int64)

    def _reads(self) -> float:
        """How often the average event would be read if every slice read what it overlaps."""
        rows = sum(part.rows for part in self._parts)
        if not self._cuts or not rows:
            return 1.0
        ends = np.array([(part.first, part.last) for part in self._parts])
        overlapped = np.diff(np.searchsorted(self._cuts, ends, side="right"), axis=1)[:, 0] + 1
        return float((overlapped * [part.rows for part in self._parts]).sum() / rows)

    def _slice(self, low: int, high: int) -> Any:
        """What became known in [low, high), as a table."""
        columns = self._reader.columns
        found = []
        for part in self._parts:
            if part.first >= high or part.last < low:
                continue
            for table in self._tables(part.fragment, columns):
                if part.first >= low and part.last < high:
                    found.append(table)
                    continue
                known = self._reader.instants(table).known
                inside = (known >= low) & (known < high)
                if inside.any():
                    found.append(table.filter(pa.array(inside)))
        if found:
            return pa.concat_tables(found)
        return self._files.schema.empty_table().select(columns)

    def _sorted_into(self, directory: Path) -> list[_Part]:
        """The same events in one file per slice."""
        import pyarrow.dataset as ds

        edges = [_BEGINNING, *self._cuts, _END]
        paths = [directory / f"{i}.parquet" for i in range(len(self))]
        schema = pa.schema([self._files.schema.field(name) for name in self._reader.columns])
        rows = np.zeros(len(self), np.int64)
        with ExitStack() as stack:
            writers = [
                stack.enter_context(pq.ParquetWriter(path, schema, compression="lz4"))
                for path in paths
            ]
            # Many rows at a time, for each of them leaves a row group in every file.
            tables = (t for p in self._parts for t in self._tables(p.fragment, schema.names))
            for table in _gathered(tables, self._rows // 2):
                times = self._reader.instants(table)
                kept = np.flatnonzero(times.within(*self._span))
                to = np.searchsorted(self._cuts, times.known[kept], side="right")
                grouped = table.take(pa.array(kept[np.argsort(to, kind="stable")]))
                counts = np.bincount(to, minlength=len(self))
                for i, end in enumerate(np.cumsum(counts).tolist()):
                    if counts[i]:
                        writers[i].write_table(grouped.slice(end - counts[i], counts[i]))
                rows += counts
        return [
            _Part(fragment, int(rows[i]), edges[i], edges[i + 1] - 1)
            for i, path in enumerate(paths)
            for fragment in ds.dataset(str(path), format="parquet").get_fragments()
        ]

    def _tables(self, fragment: Any, columns: list[str]) -> Iterator[Any]:
        """A row group in pieces."""
        batches = fragment.to_batches(
            columns=columns,
            schema=self._files.schema,
            batch_size=_BATCH_ROWS,
            **_READ_AHEAD,
        )
        for batch in batches:
            yield pa.Table.from_batches([batch])


def _gathered(tables: Iterable[Any], rows: int) -> Iterator[Any]:
    """The tables, joined until they have that many rows."""
    pending: list[Any] = []
    for table in tables:
        pending.append(table)
        if sum(len(each) for each in pending) >= rows:
            yield pa.concat_tables(pending)
            pending = []
    if pending:
        yield pa.concat_tables(pending)
