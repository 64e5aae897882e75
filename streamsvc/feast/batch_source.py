"""A Feast batch source as an Arrow table, read the way Feast's DuckDB store reads it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import ibis.expr.datatypes as dt  # type: ignore[import-untyped]
from feast.infra.offline_stores.duckdb import _read_data_source
from feast.infra.offline_stores.file_source import FileSource

__all__ = ["located", "read_rows"]


def read_rows(source: Any, names: Sequence[str], config: Any) -> Any:
    """These columns of a source and its timestamps, as an Arrow table."""
    table = _read_data_source(source, str(config.repo_path))
    table = table.rename(
        {new: old for old, new in source.field_mapping.items() if old in table.columns}
    )
    stamps = [source.timestamp_field, source.created_timestamp_column or source.timestamp_field]
    # As text, DuckDB would hand out timestamps that have both a zone and nanoseconds.
    utc = {name: table[name].cast(dt.Timestamp(timezone="UTC")) for name in stamps}
    return table.mutate(**utc).select(*dict.fromkeys([*names, *stamps])).to_pyarrow()


def located(source: Any, config: Any) -> Any:
    """The source with its path made absolute: Feast's DuckDB store would start at the working
    directory, wherever the command runs.
    """
    if not isinstance(source, FileSource):
        return source
    found = copy.copy(source)
    found.file_options = copy.copy(source.file_options)
    found.file_options.uri = str(
        FileSource.get_uri_for_file_path(config.repo_path, source.file_options.uri)
    )
    return found
