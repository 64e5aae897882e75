"""Archives: all of one at once, and random payments in Parquet, in several orders, with views."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from streamsvc.definitions.plan import (
    LIFETIME_MS,
    Aggregate,
    EventField,
    EventSchema,
    JoinKey,
    Source,
    View,
)
from streamsvc.feast.archive import Archive
from streamsvc.feast.archive_slices import ArchiveSlices

FOREVER = 2**61
N = 30_000
SPAN = 1_000_000
FIELDS = (
    EventField("card", ("card",), "string"),
    EventField("amount", ("amount",), "float64"),
    EventField("at", ("at",), "int64"),
)


def read_archive(described: Source, fields: Iterable[str], until_ms: int) -> Archive:
    """The archived events up to an instant, in one slice."""
    with ArchiveSlices(described, fields, -FOREVER, until_ms, 1 << 30) as slices:
        ((archive, until),) = list(slices)
    assert until is None
    return archive


def source(path: Path, created: str | None = None) -> Source:
    return Source(
        name="payments",
        topic="payments",
        schema=EventSchema(FIELDS, "at", "ms"),
        allowed_lateness_ms=0,
        max_future_ms=0,
        key_field=None,
        archive_path=str(path),
        archive_created_field=created,
    )


def events(order: str, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    at = np.sort(rng.integers(0, SPAN, N))
    card = rng.integers(0, 300, N)
    arrived = at + rng.integers(-50, 5_000, N)
    rank = {
        "time": np.arange(N),
        "arrival": np.argsort(arrived, kind="stable"),
        "card": np.argsort(card, kind="stable"),
        "nearly": np.argsort(at + rng.integers(0, 20_000, N), kind="stable"),
    }[order]
    table = {"card": card, "amount": rng.gamma(2, 30, N).round(2), "at": at, "arrived": arrived}
    return {name: values[rank] for name, values in table.items()}


def written(path: Path, table: dict[str, Any], *, files: int = 1, group: int = 1_000) -> Path:
    path.mkdir()
    arrow = pa.table(
        {
            "card": pa.array([f"c-{c}" for c in table["card"]]).dictionary_encode(),
            "amount": table["amount"],
            "at": table["at"],
            "arrived": pa.array(table["arrived"], pa.timestamp("ms", "UTC")),
            "unasked": pa.array(["x" * 100] * len(table["at"])),
        }
    )
    size = -(-len(table["at"]) // files)
    for i in range(files):
        part = arrow.slice(i * size, size)
        pq.write_table(part, path / f"{i}.parquet", row_group_size=group)
    return path


def view(name: str, path: Path, created: str | None, *aggregates: Aggregate) -> View:
    return View(
        name=name,
        source=source(path, created),
        join_keys=(JoinKey("card", "string"),),
        aggregates=tuple(sorted(aggregates, key=lambda a: a.feature)),
        feature_types={a.feature: "Float64" for a in aggregates},
        udf=None,
        ttl_ms=None,
        definition_hash="",
        column_types={"amount": "float64", "card": "string"},
    )


WINDOWS = {
    "short": [
        Aggregate("n", "amount", "count", 10_000, 1_000),
        Aggregate("high", "amount", "p90", 60_000, 6_000),
        Aggregate("last", "card", "last", 60_000, 6_000),
    ],
    "long": [
        Aggregate("ever", "amount", "count", LIFETIME_MS, LIFETIME_MS),
        Aggregate("most", "amount", "max", 300_000, 5_000),
        Aggregate("first", "amount", "first", 300_000, 5_000),
    ],
}
