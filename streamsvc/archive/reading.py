"""Reading an archive while it is written: the files of its chain, as they are listed at the start.

Files that are merged into others stay for a while (`merging`), so a reader need not know of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from streamsvc.archive.names import ArchiveFile, chain, logs_of
from streamsvc.archive.rows import archive_schema
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.definitions.plan import Source
from streamsvc.errors import ConfigurationError, UnavailableError

__all__ = ["archive_dataset", "chained", "fitted", "opened", "read_batches"]

_BATCH_ROWS: Final = 131_072


def chained(files: Iterable[ArchiveFile]) -> list[ArchiveFile]:
    """The files of all logs that count, log by log in order."""
    return [file for _, of_log in sorted(logs_of(files).items()) for file in chain(of_log)]


def archive_dataset(source: Source) -> Any | None:
    """The files that count as one pyarrow dataset; None if no archive worker wrote the archive.

    Its columns are those that the source declares now: one that a file lacks is null there.
    """
    if source.archive_path is None or source.archive_path.endswith(".parquet"):
        return None
    storage = ArchiveStorage(source.archive_path, source.archive_endpoint)
    files = chained(storage.files())
    if not files:
        return None
    paths = [storage.path_of(file) for file in files]
    return ds.dataset(
        paths, schema=archive_schema(source), format="parquet", filesystem=storage.filesystem
    )


def read_batches(
    storage: ArchiveStorage, files: Iterable[ArchiveFile], schema: Any
) -> Iterator[Any]:
    """RecordBatches of `schema` of files, in their order; a column that a file lacks is null there.

    Raises ConfigurationError where a file holds one of another type, UnavailableError where one is
    not there any more.
    """
    for file in files:
        with opened(storage, file) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS):
                yield fitted(batch, schema)


@contextmanager
def opened(storage: ArchiveStorage, file: ArchiveFile) -> Iterator[Any]:
    """A file as a pyarrow ParquetFile, for the length of a `with`.

    Raises what `read_batches` raises, for the body of the `with`, too.
    """
    try:
        with storage.open(file) as stream:
            yield pq.ParquetFile(stream)
    except FileNotFoundError as error:
        raise UnavailableError(
            f"{storage.path}: {file.name} was merged into another file and deleted before it "
            "was read; try again, or raise archive_grace_s"
        ) from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigurationError(
            f"{storage.path}: {file.name} does not hold what is declared: {error}. If a "
            "field's type was changed, archive to another path from then on."
        ) from error


def fitted(batch: Any, schema: Any) -> Any:
    """A batch with the columns of `schema`."""
    held = set(batch.schema.names)
    arrays = [
        batch.column(field.name).cast(field.type)
        if field.name in held
        else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
