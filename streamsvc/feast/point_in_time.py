"""The latest row at or before each entity row, of an ordinary batch view.

Feast's own DuckDB join pairs every entity row with every earlier row of its entity before it picks
one: 20,000 flights against a year of hourly weather at three airports took 66 s and 7 GB. An ASOF
join reads each side once; the result is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

__all__ = ["latest_rows"]


def latest_rows(
    entities: Any,
    entity_time: Any,
    rows: Any,
    *,
    join_keys: Mapping[str, str],
    features: Sequence[str],
    timestamp_field: str,
    created_field: str | None,
    ttl_us: int | None,
) -> Any:
    """The features at each of n entity rows, an Arrow table of n rows in their order.

    `entities` and `rows` are Arrow tables; `join_keys` maps a column of `rows` to one of
    `entities`; `entity_time` is an Arrow timestamp array (n,). Of rows with the same keys and
    timestamp the one created last counts. A row older than `ttl_us` microseconds is none.
    """
    import duckdb

    left = {"position": pa.array(np.arange(entities.num_rows))}
    left["instant"] = _microseconds(entity_time)
    right = {"instant": _microseconds(rows.column(timestamp_field))}
    for i, (row_key, entity_key) in enumerate(join_keys.items()):
        left[f"key_{i}"] = entities.column(entity_key)
        right[f"key_{i}"] = rows.column(row_key)
    order = "instant"
    if created_field:
        right["created"] = _microseconds(rows.column(created_field))
        order = "created"
    for i, feature in enumerate(features):
        right[f"feature_{i}"] = rows.column(feature)

    keys = [f"key_{i}" for i in range(len(join_keys))]
    same = " AND ".join([*(f"e.{k} = r.{k}" for k in keys), "e.instant >= r.instant"])
    alive = "true" if ttl_us is None else f"r.instant + {ttl_us} >= e.instant"
    values = ", ".join(
        f"CASE WHEN {alive} THEN r.feature_{i} END AS feature_{i}" for i in range(len(features))
    )
    connection = duckdb.connect()
    try:
        connection.register("entity_rows", pa.table(left))
        connection.register("feature_rows", pa.table(right))
        found = connection.sql(
            f"""
            WITH latest AS (
                SELECT * FROM feature_rows
                QUALIFY row_number() OVER (
                    PARTITION BY {", ".join([*keys, "instant"])} ORDER BY {order} DESC NULLS LAST
                ) = 1
            )
            SELECT {values} FROM entity_rows AS e ASOF LEFT JOIN latest AS r ON {same}
            ORDER BY e.position
            """
        ).to_arrow_table()
    finally:
        connection.close()
    return found.rename_columns(list(features))


def _microseconds(timestamps: Any) -> Any:
    """Microseconds since the epoch, which is what DuckDB keeps; without a zone it is UTC."""
    zone = getattr(timestamps.type, "tz", None)
    return timestamps.cast(pa.timestamp("us", zone), safe=False).cast(pa.int64())
