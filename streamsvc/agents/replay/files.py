"""A file of events -> records in event-time order, ready to publish.

Every column of the file is sent, as JSON of the types that the source's schema declares. The event
time is written as the source declares it: ISO-8601 text, a number in its unit, or the Kafka
timestamp of the record.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from streamsvc.columns import I64, BytesColumn, numeric, strings
from streamsvc.definitions.plan import EventField, Source
from streamsvc.entity_keys import key_text, murmur2
from streamsvc.errors import ConfigurationError
from streamsvc.events.times import PER_SECOND

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["EventFile", "read_events"]

_BLOCK = 4_096


class EventFile:
    """n records of one topic, sorted by event time; ties keep the order of the file."""

    def __init__(self, source: Source, table: pa.Table, times: I64, keys: BytesColumn | None):
        self.source = source
        self.times = times
        """Event times, milliseconds, ascending; shape (n,)."""
        self._names: list[str] = table.column_names
        self._table = table
        self._keys = keys
        paths = {f.name: f.path for f in source.schema.fields if len(f.path) > 1}
        self._nested = {name: paths[name] for name in self._names if name in paths}
        self._block = -1
        self._records: list[tuple[bytes | None, bytes]] = []

    def __len__(self) -> int:
        return len(self.times)

    def kafka_ms(self, row: int) -> int | None:
        """The Kafka timestamp that a record must have; None for that of its sending."""
        return int(self.times[row]) if self.source.schema.kafka_time else None

    @property
    def topic(self) -> str:
        """Where the records go."""
        return self.source.topic

    def partitions(self, count: int) -> I64:
        """The partition of every record: murmur2 of its key as Kafka's own producers do it.

        Records without a key are dealt out in turn.
        """
        turns = np.arange(len(self), dtype=np.int64) % count
        if self._keys is None:
            return turns
        return np.where(self._keys.valid, murmur2(self._keys) % count, turns)

    def record(self, row: int) -> tuple[bytes | None, bytes]:
        """Key and value of one record. Cheap when rows are asked for in ascending order."""
        block, at = divmod(row, _BLOCK)
        if block != self._block:
            self._records = self._encode(block * _BLOCK, min(len(self), (block + 1) * _BLOCK))
            self._block = block
        return self._records[at]

    def _encode(self, start: int, stop: int) -> list[tuple[bytes | None, bytes]]:
        part = self._table.slice(start, stop - start)
        rows = zip(*(column.to_pylist() for column in part.columns), strict=True)
        objects = (dict(zip(self._names, row, strict=True)) for row in rows)
        if self._nested:
            objects = (self._unflatten(each) for each in objects)
        values = [orjson.dumps(each) for each in objects]
        if self._keys is None:
            return [(None, value) for value in values]
        keys = self._keys.take(np.arange(start, stop)).to_bytes_list()
        return list(zip(keys, values, strict=True))

    def _unflatten(self, flat: dict[str, Any]) -> dict[str, Any]:
        for name, path in self._nested.items():
            value = flat.pop(name)
            at = flat
            for step in path[:-1]:
                at = at.setdefault(step, {})
            at[path[-1]] = value
        return flat


def read_events(
    source: Source,
    path: Path,
    *,
    key: str | None = None,
    from_ms: int | None = None,
    until_ms: int | None = None,
) -> EventFile:
    """The events of a Parquet, CSV or JSONL file with from_ms <= event time < until_ms.

    `key` names the column that becomes the record key; the source's declared key by default.
    Raises ConfigurationError for a file that cannot be read or lacks a column.
    """
    import pyarrow.compute as pc

    if source.schema.encoding is not None:
        raise ConfigurationError(
            f"Topic {source.topic!r} takes Avro or Protobuf, and replays write JSON; publish its "
            "events with a producer of your own"
        )
    table = _read(path, source)
    field = source.schema.timestamp_field
    time_column = source.archive_timestamp_field or field
    if time_column not in table.column_names and field in table.column_names:
        time_column = field
    times = _times(_column(table, time_column, path), source, path)
    if time_column != field:
        table = table.rename_columns(
            [field if name == time_column else name for name in table.column_names]
        )
    wanted = np.ones(len(times), np.bool_)
    if from_ms is not None:
        wanted &= times >= from_ms
    if until_ms is not None:
        wanted &= times < until_ms
    chosen = np.flatnonzero(wanted)
    order = chosen[np.argsort(times[chosen], kind="stable")]
    table, times = table.take(order), times[order]
    if source.schema.kafka_time:
        table = table.drop_columns([field])
    else:
        written = _written_times(times, source)
        table = table.set_column(table.column_names.index(field), field, written)
    for declared in source.schema.fields:
        if declared.name in table.column_names and declared.name != field:
            index = table.column_names.index(declared.name)
            table = table.set_column(
                index, declared.name, _as_declared(table.column(index), declared, path)
            )
    key = key or source.key_field
    keys = None
    if key is not None:
        column = _column(table, key, path)
        if not pc.any(pc.is_valid(column)).as_py():
            raise ConfigurationError(f"{path}: key column {key!r} holds nothing but nulls")
        listed = column.to_pylist()
        text = any(isinstance(value, str) for value in listed)
        keys = strings(listed) if text else key_text(numeric(listed))
    return EventFile(source, table, times, keys)


def _read(path: Path, source: Source) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv, json, parquet

    # Text of digits would be read as numbers, and lose its leading zeros.
    texts = {field.name: pa.string() for field in source.schema.fields if field.type == "string"}
    as_declared = csv.ConvertOptions(column_types=texts, strings_can_be_null=True)
    readers: dict[str, Callable[[Path], pa.Table]] = {
        ".parquet": parquet.read_table,
        ".csv": lambda file: csv.read_csv(file, convert_options=as_declared),
        ".jsonl": json.read_json,
        ".ndjson": json.read_json,
        ".json": json.read_json,
    }
    reader = readers.get(path.suffix)
    if reader is None:
        raise ConfigurationError(
            f"{path}: events are read from {', '.join(readers)} files, not {path.suffix!r}"
        )
    try:
        return reader(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}") from error


def _column(table: pa.Table, name: str, path: Path) -> Any:
    if name not in table.column_names:
        raise ConfigurationError(
            f"{path} has no column {name!r}; it has {', '.join(table.column_names)}"
        )
    return table.column(name)


def _times(column: Any, source: Source, path: Path) -> I64:
    """Event times in milliseconds. Raises ConfigurationError for one that is null or no time."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if column.null_count:
        raise ConfigurationError(f"{path}: {column.null_count} records have no event time")
    try:
        if pa.types.is_integer(column.type):
            per_second = PER_SECOND[str(source.schema.time_unit)]
            column = column.cast(pa.int64())
            return _scaled(column.to_numpy(), 1_000, per_second)
        if not pa.types.is_timestamp(column.type):
            import pandas as pd

            parsed = pd.to_datetime(column.to_pandas(), utc=True, format="ISO8601")
            return np.asarray(parsed.astype("datetime64[ms, UTC]").astype("int64"))
        milliseconds = pc.cast(column, pa.timestamp("ms", column.type.tz), safe=False)
        return np.asarray(milliseconds.cast(pa.int64()).to_numpy())
    except (KeyError, ValueError, pa.ArrowInvalid) as error:
        raise ConfigurationError(
            f"{path}: the event times of {source.name!r} cannot be read: {error}"
        ) from error


def _written_times(times: I64, source: Source) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    kinds = {field.name: field.type for field in source.schema.fields}
    if kinds[source.schema.timestamp_field] == "string":
        return pc.strftime(pa.array(times).cast(pa.timestamp("ms", "UTC")), "%Y-%m-%dT%H:%M:%SZ")
    return pa.array(_scaled(times, PER_SECOND[str(source.schema.time_unit)], 1_000))


def _scaled(values: I64, up: int, down: int) -> I64:
    return values * (up // down) if up >= down else values // (down // up)


def _as_declared(column: Any, field: EventField, path: Path) -> Any:
    """A column as the schema declares it: pandas has no null integer, and CSV no text of digits."""
    import pyarrow as pa
    import pyarrow.compute as pc

    types = {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "string": pa.string(),
    }
    try:
        if field.type == "string" and pa.types.is_timestamp(column.type):
            return pc.strftime(column, "%Y-%m-%dT%H:%M:%SZ")
        if field.type == "int64" and pa.types.is_floating(column.type):
            column = pc.if_else(pc.is_nan(column), None, column)
        return column.cast(types[field.type])
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise ConfigurationError(
            f"{path}: column {field.name!r} is not {field.type}: {error}"
        ) from error
