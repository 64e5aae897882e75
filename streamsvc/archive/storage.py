"""Where an archive lies: a directory of this machine, or an object store.

A file appears under its name whole or not at all: object stores have it so, elsewhere it is written
under a name that nobody lists, made durable, and renamed.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import pyarrow as pa
import pyarrow.fs as pafs

from streamsvc.archive.names import ArchiveFile, parse_name
from streamsvc.errors import ConfigurationError, UnavailableError

__all__ = ["ArchiveStorage"]

_OBJECT_STORES: Final = {"s3", "gcs", "abfs"}
_HIDDEN: Final = "_unfinished-"


class ArchiveStorage:
    """The files below one root. Raises UnavailableError when they cannot be reached."""

    def __init__(self, path: str, endpoint: str | None = None) -> None:
        """`path` is a local path, or a URI that pyarrow knows, such as `s3://bucket/payments`, with
        the endpoint of the object store where it is not the usual one.
        """
        self.path = path
        try:
            if path.startswith("s3://") and endpoint is not None:
                self._fs = pafs.S3FileSystem(endpoint_override=endpoint)
                self._root = path.removeprefix("s3://")
            elif "://" in path:
                self._fs, self._root = pafs.FileSystem.from_uri(path)
            else:
                self._fs, self._root = pafs.LocalFileSystem(), path
        except (pa.ArrowInvalid, ValueError) as error:
            raise ConfigurationError(f"{path!r} is no place for an archive: {error}") from error
        self._root = self._root.rstrip("/")

    @property
    def root(self) -> str:
        """The path in the file system."""
        return self._root

    @property
    def filesystem(self) -> Any:
        """What pyarrow reads the files from."""
        return self._fs

    def path_of(self, file: ArchiveFile) -> str:
        """Its path in that file system."""
        return f"{self._root}/{file.name}"

    def files(self, day: str | None = None) -> list[ArchiveFile]:
        """All files, or those of one day."""
        return [file for file, _ in self._listed(day) if file is not None]

    def strangers(self) -> list[str]:
        """Parquet files below the root that are no archive's, by their paths."""
        return [
            path for file, path in self._listed(None) if file is None and path.endswith(".parquet")
        ]

    def _listed(self, day: str | None) -> Iterator[tuple[ArchiveFile | None, str]]:
        root = self._root if day is None else f"{self._root}/{day}"
        with self._reached():
            found = self._fs.get_file_info(
                pafs.FileSelector(root, allow_not_found=True, recursive=True)
            )
        for info in found:
            if info.type == pafs.FileType.File and not info.base_name.startswith(("_", ".")):
                directory = posixpath.basename(posixpath.dirname(info.path))
                yield (
                    parse_name(directory, info.base_name, info.size, info.mtime_ns / 1e9),
                    info.path,
                )

    def open(self, file: ArchiveFile) -> Any:
        """The file for reading. Raises FileNotFoundError if it is not there any more."""
        with self._reached():
            return self._fs.open_input_file(self.path_of(file))

    def publish(self, file: ArchiveFile, write: Callable[[Any], None]) -> int:
        """Let `write` fill a stream, which then is the file; its bytes.

        Where a file of that name is already, it held the same.
        """
        path = self.path_of(file)
        directory, base = posixpath.split(path)
        with self._reached():
            if self._fs.type_name in _OBJECT_STORES:
                with self._fs.open_output_stream(path) as stream:
                    write(stream)
                    return int(stream.tell())
            self._fs.create_dir(directory, recursive=True)
            unfinished = f"{directory}/{_HIDDEN}{base}-{os.getpid()}"
            with self._fs.open_output_stream(unfinished) as stream:
                write(stream)
                size = int(stream.tell())
            if isinstance(self._fs, pafs.LocalFileSystem):
                _sync(unfinished)
            self._fs.move(unfinished, path)
            if isinstance(self._fs, pafs.LocalFileSystem):
                _sync(directory)
            return size

    def sweep(self, before_s: float) -> None:
        """Remove what killed writers left unfinished before an instant (seconds since 1970)."""
        with self._reached():
            found = self._fs.get_file_info(
                pafs.FileSelector(self._root, allow_not_found=True, recursive=True)
            )
            for info in found:
                if info.base_name.startswith(_HIDDEN) and info.mtime_ns / 1e9 < before_s:
                    self._fs.delete_file(info.path)

    def delete(self, files: Iterable[ArchiveFile]) -> None:
        """Remove files; one that is gone already is no error."""
        for file in files:
            with self._reached():
                try:
                    self._fs.delete_file(self.path_of(file))
                except FileNotFoundError:
                    continue

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnavailableError(f"The archive {self.path} cannot be reached: {error}") from error


def _sync(path: str) -> None:
    """Make a file, or the names in a directory, outlast a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
