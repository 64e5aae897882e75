"""One file of an archive: Parquet, with what its writer knew in the footer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from streamsvc.archive.names import ArchiveFile
from streamsvc.archive.storage import ArchiveStorage

__all__ = ["Footer", "read_footer", "write_file"]

ROW_GROUP: Final = 131_072
_KEY: Final = b"streamsvc"


class Footer(msgspec.Struct, frozen=True):
    """What goes into a file's metadata."""

    topic: str
    watermark: int
    """Greatest event time in the partition up to the end of the file, ms; NO_WATERMARK for none."""


def write_file(
    storage: ArchiveStorage,
    file: ArchiveFile,
    footer: Footer,
    schema: Any,
    batches: Iterable[Any],
) -> int:
    """Publish RecordBatches of `schema` as a file; its bytes. One row group is held at a time."""
    named = schema.with_metadata({_KEY: msgspec.json.encode(footer)})

    def write(stream: Any) -> None:
        with pq.ParquetWriter(stream, named, compression="zstd") as writer:
            waiting: list[Any] = []
            rows = 0
            for batch in batches:
                waiting.append(batch)
                rows += len(batch)
                if rows >= ROW_GROUP:
                    writer.write_table(pa.Table.from_batches(waiting, schema), ROW_GROUP)
                    waiting, rows = [], 0
            if rows:
                writer.write_table(pa.Table.from_batches(waiting, schema), ROW_GROUP)

    return storage.publish(file, write)


def read_footer(storage: ArchiveStorage, file: ArchiveFile) -> Footer:
    """What the file's writer knew. Raises FileNotFoundError if it is gone."""
    with storage.open(file) as stream:
        return msgspec.json.decode(pq.read_metadata(stream).metadata[_KEY], type=Footer)
