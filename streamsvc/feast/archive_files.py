"""Where the archive of a stream lies: Parquet files, local or in an object store.

`s3://bucket/path` takes credentials and region from the AWS environment, and the endpoint from the
FileSource's `s3_endpoint_override` or `AWS_ENDPOINT_URL`, so that MinIO, Ceph and others will do.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from streamsvc.archive.reading import archive_dataset
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.definitions.plan import Source
from streamsvc.errors import ConfigurationError

__all__ = ["open_archive"]


def open_archive(source: Source) -> Any:
    """The files of a source's archive as one pyarrow dataset: of an archive worker's those that
    count, else one file, or all of a directory.

    Raises ConfigurationError where there is no archive, or it cannot be read, UnavailableError
    where it cannot be reached.
    """
    import pyarrow.dataset as ds

    if source.archive_path is None:
        raise ConfigurationError(
            f"KafkaSource {source.name!r} has no archive: set its batch_source to a FileSource of "
            "the same raw events"
        )
    try:
        written = archive_dataset(source)
        if written is not None:
            return written
        storage = ArchiveStorage(source.archive_path, source.archive_endpoint)
        return ds.dataset(storage.root, filesystem=storage.filesystem, format="parquet")
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigurationError(
            f"The archive of KafkaSource {source.name!r} cannot be read: {error}"
        ) from error
