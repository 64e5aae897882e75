"""Feast's protobuf values to columns and back.

A feature of a type that the packed row knows (see `store.row`) is stored as that type; any other
(lists, sets, maps, JSON, structs, UUIDs, decimals, zoned timestamps) as its serialized `Value`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from feast.feature_view import DUMMY_ENTITY_ID
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value

from streamsvc.columns import BytesColumn, Column, NumericColumn, numeric, strings
from streamsvc.entity_keys import encode_entity_keys

__all__ = ["aware", "entity_key_column", "feature_column", "from_ms", "to_ms", "value_protos"]

_Part: TypeAlias = int | float | str | bytes
_FIELDS: Mapping[str, str] = {
    "Float64": "double_val",
    "Float32": "float_val",
    "Int64": "int64_val",
    "Int32": "int32_val",
    "UnixTimestamp": "unix_timestamp_val",
    "Bool": "bool_val",
    "String": "string_val",
    "Bytes": "bytes_val",
}
_NUMBERS = frozenset(
    {"double_val", "float_val", "int64_val", "int32_val", "unix_timestamp_val", "bool_val"}
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def entity_key_column(keys: Sequence[EntityKey]) -> BytesColumn:
    """The key bytes of Feast entity keys (see `streamsvc.entity_keys`); null if a part is.

    The one row of a view without entities has an empty key.

    Raises ValueError if the keys have different join keys, and TypeError for a value that cannot
    name an entity.
    """
    names = _join_keys(keys[0]) if keys else []
    if not names:
        return strings([""] * len(keys))
    parts: dict[str, list[_Part | None]] = {name: [] for name in names}
    for key in keys:
        if _join_keys(key) != names:
            raise ValueError(f"entity keys of {names} and of {_join_keys(key)} in one call")
        for name, value in zip(key.join_keys, key.entity_values, strict=True):
            parts[name].append(_entity_part(name, value))
    return encode_entity_keys([_part_column(name, part) for name, part in parts.items()])


def feature_column(name: str, kind: str, values: Iterable[Value | None]) -> Column:
    """One feature's values as the column that `RowLayout.pack` takes; unset values are null.

    Raises TypeError for a value that does not fit the feature's type.
    """
    field = _FIELDS.get(kind)
    if field is None:
        return strings(
            [
                None
                if v is None or v.WhichOneof("val") in (None, "null_val")
                else v.SerializeToString()
                for v in values
            ]
        )
    cells = [None if v is None else _cell(name, kind, field, v) for v in values]
    return _numbers(cells) if field in _NUMBERS else _texts(cells)


def value_protos(kind: str, column: Column) -> list[Value]:
    """A column as read from a row, as Feast values; null is a value with nothing set."""
    make: Callable[..., Value] = Value
    if not isinstance(column, BytesColumn):
        field = _FIELDS[kind]
        return [make() if v is None else make(**{field: v}) for v in column.to_pylist()]
    rows = column.to_bytes_list()
    if kind == "Bytes":
        return [Value() if raw is None else Value(bytes_val=raw) for raw in rows]
    if kind == "String":
        return [Value() if raw is None else Value(string_val=raw.decode()) for raw in rows]
    return [Value() if raw is None else Value.FromString(raw) for raw in rows]


def aware(moment: datetime) -> datetime:
    """The same moment with a time zone; one without is UTC, as in Feast."""
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def to_ms(moment: datetime) -> int:
    """Milliseconds since the epoch, rounded down."""
    return (aware(moment) - _EPOCH) // _MILLISECOND


def from_ms(ms: int) -> datetime:
    """The UTC datetime of milliseconds since the epoch."""
    return _EPOCH + ms * _MILLISECOND


def _join_keys(key: EntityKey) -> list[str]:
    # Feast reads a view without entities under a placeholder, and writes it under nothing.
    return [] if list(key.join_keys) == [DUMMY_ENTITY_ID] else sorted(key.join_keys)


def _cell(name: str, kind: str, field: str, value: Value) -> _Part | None:
    found = value.WhichOneof("val")
    if found is None or found == "null_val":
        return None
    if found != field and not (found in _NUMBERS and field in _NUMBERS):
        raise TypeError(f"feature {name!r} is {kind}, but was given a {found}")
    cell: _Part = getattr(value, found)
    return cell


def _entity_part(name: str, value: Value) -> _Part | None:
    found = value.WhichOneof("val")
    if found is None or found == "null_val":
        return None
    part = getattr(value, found)
    if not isinstance(part, int | float | str | bytes):
        raise TypeError(f"join key {name!r}: a {found} cannot name an entity")
    return part


def _part_column(name: str, parts: Sequence[_Part | None]) -> Column:
    present = [part for part in parts if part is not None]
    text = sum(isinstance(part, str | bytes) for part in present)
    if 0 < text < len(present):
        raise TypeError(f"join key {name!r} holds both text and numbers in one call")
    return _texts(parts) if text else _numbers(parts)


def _numbers(cells: Sequence[_Part | None]) -> NumericColumn:
    return numeric([c if isinstance(c, int | float) else None for c in cells])


def _texts(cells: Sequence[_Part | None]) -> BytesColumn:
    return strings([c if isinstance(c, str | bytes) else None for c in cells])
