from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.feast.point_in_time import latest_rows

START = datetime(2024, 1, 1, tzinfo=UTC)

seconds = st.integers(0, 12)
names = st.sampled_from(["a", "b", None])
numbers = st.sampled_from([1, 2])
Entity = tuple[str | None, int, int]
Row = tuple[str | None, int, int, int, int | None]
entities = st.lists(st.tuples(names, numbers, seconds), min_size=1, max_size=20)
# Two rows of one instant and one creation would be equally right.
rows = st.lists(
    st.tuples(names, numbers, seconds, seconds, st.one_of(st.none(), st.integers(0, 9))),
    max_size=30,
    unique_by=lambda row: row[:4],
)


def at(second: int) -> datetime:
    return START + timedelta(seconds=second)


def by_hand(entity: Entity, found: list[Row], ttl: int | None) -> int | None:
    name, number, instant = entity
    if name is None:
        return None
    alive = [
        row
        for row in found
        if row[:2] == (name, number)
        and row[2] <= instant
        and (ttl is None or instant <= row[2] + ttl)
    ]
    return max(alive, key=lambda row: (row[2], row[3]))[4] if alive else None


@settings(max_examples=60, deadline=None)
@given(entities, rows, st.one_of(st.none(), st.integers(0, 6)))
def test_the_latest_row_of_the_entity_counts(
    asked: list[Entity], found: list[Row], ttl: int | None
) -> None:
    zone = pa.timestamp("ns", "UTC")
    naive = pa.timestamp("ms")
    result = latest_rows(
        pa.table(
            {
                "who": pa.array([e[0] for e in asked], pa.string()),
                "number": pa.array([e[1] for e in asked], pa.int64()),
            }
        ),
        pa.chunked_array([pa.array([at(e[2]) for e in asked], zone)]),
        pa.table(
            {
                "name": pa.array([r[0] for r in found], pa.large_string()),
                "number": pa.array([r[1] for r in found], pa.int32()),
                "ts": pa.array([at(r[2]).replace(tzinfo=None) for r in found], naive),
                "created": pa.array([at(r[3]).replace(tzinfo=None) for r in found], naive),
                "value": pa.array([r[4] for r in found], pa.int64()),
            }
        ),
        join_keys={"name": "who", "number": "number"},
        features=["value"],
        timestamp_field="ts",
        created_field="created",
        ttl_us=None if ttl is None else ttl * 1_000_000,
    )
    assert result.column_names == ["value"]
    assert result.column("value").to_pylist() == [by_hand(e, found, ttl) for e in asked]


def test_a_view_without_entities_has_one_latest_row() -> None:
    result = latest_rows(
        pa.table({"who": ["a", "b"]}),
        pa.chunked_array([pa.array([at(1), at(5)], pa.timestamp("us", "UTC"))]),
        pa.table({"ts": pa.array([at(0), at(3)], pa.timestamp("us", "UTC")), "value": [1.5, 2.5]}),
        join_keys={},
        features=["value"],
        timestamp_field="ts",
        created_field=None,
        ttl_us=None,
    )
    assert result.column("value").to_pylist() == [1.5, 2.5]
