"""The served log as columns, one set for each order of features that its models had."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from streamsvc.columns import I64, Column
from streamsvc.definitions.plan import JoinKey
from streamsvc.feast.arrow_columns import column_from_arrow
from streamsvc.scoring.model import F32
from streamsvc.scoring.vectors import NO_ROW, Position

__all__ = ["UNKNOWN", "Served", "served_vectors"]

UNKNOWN = -2
"""Incarnation where no position was logged, because the store was away."""


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """n vectors of models with the same features; arrays have shape (n,)."""

    features: tuple[str, ...]
    ids: tuple[str, ...]
    entity: Mapping[str, Column]
    request_time_ms: I64
    stale_ms: I64
    ahead_ms: I64
    positions: Mapping[str, Position]
    matrix: F32
    """Shape (n, features); NaN is missing."""

    def __len__(self) -> int:
        return len(self.ids)

    def position(self, view: str) -> Position:
        """Where a view's rows stood."""
        unknown = np.full(len(self), UNKNOWN, np.int64)
        return self.positions.get(view, Position(unknown, unknown, unknown))


def served_vectors(
    batches: Iterable[Any], join_keys: Iterable[JoinKey], from_ms: int, until_ms: int
) -> list[Served]:
    """The vectors of requests with from_ms <= request time < until_ms.

    Of a prediction that stands in the log several times, the first counts.
    """
    seen: set[str] = set()
    groups: defaultdict[bytes, list[Any]] = defaultdict(list)
    for batch in batches:
        if "stale_ms" not in batch.schema.names:
            continue  # of an older version
        times = batch.column("request_time_ms").to_numpy()
        ids = batch.column("prediction_id").to_pylist()
        kept = []
        for i in np.flatnonzero((times >= from_ms) & (times < until_ms)).tolist():
            if ids[i] not in seen:
                seen.add(ids[i])
                kept.append(i)
        if kept:
            rows = batch if len(kept) == len(ids) else batch.take(pa.array(kept))
            groups[batch.schema.metadata[b"features"]].append(rows)
    keys = list(join_keys)
    return [_served(features, found, keys) for features, found in sorted(groups.items())]


def _served(features: bytes, batches: list[Any], join_keys: list[JoinKey]) -> Served:
    names = tuple(msgspec.json.decode(features, type=list[str]))
    tables = [pa.Table.from_batches([b]).replace_schema_metadata(None) for b in batches]
    table = pa.concat_tables(tables, promote_options="default").combine_chunks()
    positions = {}
    for column in table.column_names:
        if column.startswith("position."):
            found = table.column(column)
            parts = (_longs(found, name) for name in ("incarnation", "offset", "as_of_ms"))
            positions[column.removeprefix("position.")] = Position(*parts)
    entity = {
        key.name: column_from_arrow(table.column(f"entity.{key.name}"), key.type, key.name)
        for key in join_keys
        if f"entity.{key.name}" in table.column_names
    }
    flat = np.concatenate(
        [b.column("features").flatten().to_numpy(zero_copy_only=False) for b in batches]
    )
    return Served(
        features=names,
        ids=tuple(table.column("prediction_id").to_pylist()),
        entity=entity,
        request_time_ms=table.column("request_time_ms").to_numpy(),
        stale_ms=table.column("stale_ms").to_numpy(),
        ahead_ms=table.column("ahead_ms").to_numpy(),
        positions=positions,
        matrix=flat.reshape(table.num_rows, len(names)),
    )


def _longs(column: Any, name: str) -> I64:
    """One field of a struct column; UNKNOWN where the struct is null."""
    import pyarrow.compute as pc

    flat = pc.fill_null(pc.struct_field(column, name), UNKNOWN).to_numpy()
    return np.asarray(flat, np.int64)


assert UNKNOWN != NO_ROW
