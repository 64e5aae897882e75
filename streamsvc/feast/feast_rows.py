"""Rows as every online store of Feast takes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values

from streamsvc.columns import I64, BytesColumn, Column
from streamsvc.entity_keys import decode_entity_key
from streamsvc.feast.values import from_ms, value_protos

__all__ = ["FeastRow", "feast_rows"]

FeastRow: TypeAlias = tuple[EntityKey, dict[str, Value], datetime, None]


def feast_rows(
    table: Any,
    types: Mapping[str, str],
    keys: BytesColumn,
    values: Mapping[str, Column],
    as_of: I64,
) -> Iterator[FeastRow]:
    """Rows of a Feast view; `types` are Feast's, by feature. How long a row stays true is lost."""
    names = sorted(values)
    columns = [value_protos(types[name], values[name]) for name in names]
    for i, (key, ms) in enumerate(zip(_entity_keys(table, keys), as_of.tolist(), strict=True)):
        yield key, {n: c[i] for n, c in zip(names, columns, strict=True)}, from_ms(ms), None


def _entity_keys(table: Any, keys: BytesColumn) -> Iterator[EntityKey]:
    columns = sorted(table.entity_columns, key=lambda column: column.name)
    join_keys = [column.name for column in columns]
    parts = zip(*(decode_entity_key(raw or b"") for raw in keys.to_bytes_list()), strict=True)
    protos = [
        python_values_to_proto_values(list(values), column.dtype.to_value_type())
        for column, values in zip(columns, parts, strict=False)
    ]
    for entity_values in zip(*protos, strict=True):
        yield EntityKey(join_keys=join_keys, entity_values=entity_values)
