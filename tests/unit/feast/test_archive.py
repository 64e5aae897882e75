from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.archives import FOREVER, read_archive

from streamsvc.definitions.plan import (
    AvroEncoding,
    EventField,
    EventSchema,
    FieldType,
    Source,
    TimeUnit,
)
from streamsvc.errors import ConfigurationError
from streamsvc.feast.archive import Archive


def source(
    path: Path | None,
    *,
    time_type: FieldType = "string",
    time_unit: TimeUnit | None = None,
    archive_time: str | None = None,
) -> Source:
    fields = (
        EventField("card.id", ("card", "id"), "int64", nullable=False),
        EventField("amount", ("amount",), "float64"),
        EventField("at", ("at",), time_type, nullable=False),
    )
    return Source(
        name="payments",
        topic="payments",
        schema=EventSchema(fields, "at", time_unit),
        allowed_lateness_ms=0,
        max_future_ms=0,
        key_field=None,
        archive_path=None if path is None else str(path),
        archive_timestamp_field=archive_time,
    )


def write(path: Path, times: Any, **more: Any) -> Path:
    n = len(times)
    table = {
        "card": pa.array([{"id": i} for i in range(n)]),
        "amount": pa.array([i + 0.5 for i in range(n)]),
        "at": times,
        **more,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)
    return path


def lists(archive: Archive) -> dict[str, list[object]]:
    return {name: column.to_pylist() for name, column in archive.columns.items()}


def test_nested_fields_are_found_and_null_times_do_not_count(tmp_path: Path) -> None:
    times = pa.array(
        [datetime(2024, 1, 1, 0, 0, 1, 999, UTC), None, datetime(2024, 1, 1, tzinfo=UTC)]
    )
    archive = read_archive(source(write(tmp_path / "a.parquet", times)), ["amount", "at"], FOREVER)
    base = 1_704_067_200_000
    assert archive.rows.tolist() == [0, 2]
    assert archive.event_time[archive.rows].tolist() == [base + 1_000, base]
    found = lists(archive)
    assert found["amount"] == [0.5, 1.5, 2.5]
    assert found["card.id"] == [0, 1, 2]
    assert found["at"] == ["2024-01-01T00:00:01.000Z", None, "2024-01-01T00:00:00.000Z"]


def test_what_the_stream_refuses_does_not_count(tmp_path: Path) -> None:
    times = pa.array(["2024-01-01T00:00:00Z", "yesterday", "1600-01-01T00:00:00Z", None])
    cards = pa.array([None, {"id": 1}, {"id": 2}, {"id": 3}])
    path = write(tmp_path / "a.parquet", times, card=cards)
    assert read_archive(source(path), [], FOREVER).rows.tolist() == []
    path = write(tmp_path / "a.parquet", times)
    assert read_archive(source(path), [], FOREVER).rows.tolist() == [0]


def test_nothing_after_the_last_question_is_used(tmp_path: Path) -> None:
    times = pa.array([1_000, 2_000, 2_001, 500])
    path = write(tmp_path / "a.parquet", times)
    described = source(path, time_type="int64", time_unit="ms")
    assert read_archive(described, ["amount"], 2_000).rows.tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("time_type", "unit", "expected"),
    [
        ("int64", "s", [1_704_067_201]),
        ("int64", "ms", [1_704_067_201_250]),
        ("int64", "us", [1_704_067_201_250_000]),
        ("float64", "s", [1_704_067_201.25]),
        ("float64", "ms", [1_704_067_201_250.0]),
        ("int64", "kafka", [1_704_067_201_250]),
    ],
)
def test_the_event_time_looks_as_in_the_event(
    tmp_path: Path, time_type: FieldType, unit: TimeUnit, expected: list[object]
) -> None:
    times = pa.array([datetime(2024, 1, 1, 0, 0, 1, 250_000, UTC)])
    path = write(tmp_path / "a.parquet", times)
    found = read_archive(source(path, time_type=time_type, time_unit=unit), ["at"], FOREVER)
    assert found.columns["at"].to_pylist() == expected


def test_the_archive_may_call_the_time_otherwise_and_have_several_files(tmp_path: Path) -> None:
    stamps = pa.array([datetime(2024, 1, 1, tzinfo=UTC)])
    for name in ("b", "a"):
        write(tmp_path / "many" / f"{name}.parquet", pa.array(["x"]), event_time=stamps)
    described = source(tmp_path / "many", archive_time="event_time")
    archive = read_archive(described, ["amount"], FOREVER)
    assert archive.event_time.tolist() == [1_704_067_200_000] * 2
    assert archive.rows.dtype == np.int64


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="'payments' has no archive"):
        read_archive(source(None), [], FOREVER)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_archive(source(tmp_path / "missing.parquet"), [], FOREVER)
    times = pa.array([datetime(2024, 1, 1, tzinfo=UTC)])
    path = write(tmp_path / "a.parquet", times, amount=pa.array(["much"]))
    with pytest.raises(ConfigurationError, match=r"a\.parquet: column 'amount' is string"):
        read_archive(source(path), ["amount"], FOREVER)
    path = write(tmp_path / "a.parquet", times, card=pa.array([3]))
    with pytest.raises(ConfigurationError, match=r"holds no 'card\.id'"):
        read_archive(source(path), ["card.id"], FOREVER)
    path = write(tmp_path / "a.parquet", times, card=pa.nulls(1, pa.struct([("id", pa.int64())])))
    pq.write_table(pq.read_table(path).drop_columns("card"), path)
    with pytest.raises(ConfigurationError, match=r"no column 'card\.id'"):
        read_archive(source(path), ["card.id"], FOREVER)
    path = write(tmp_path / "a.parquet", pa.array([1]))
    with pytest.raises(ConfigurationError, match="event times are int64"):
        read_archive(source(path), [], FOREVER)


def test_only_json_needs_fields_that_nobody_asks_for(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    at = pa.array([datetime(2024, 1, 1, tzinfo=UTC)])
    pq.write_table(pa.table({"amount": pa.array([1.5]), "at": at}), path)
    json_source = source(path)
    with pytest.raises(ConfigurationError, match=r"no column 'card\.id'"):
        read_archive(json_source, ["amount"], FOREVER)
    schema = replace(json_source.schema, encoding=AvroEncoding("{}", framed=False))
    archive = read_archive(replace(json_source, schema=schema), ["amount"], FOREVER)
    assert lists(archive) == {"amount": [1.5]}  # nor is a time written as text for nobody


def test_what_was_late_does_not_count_and_offsets_decide_among_ties(tmp_path: Path) -> None:
    def stamps(*ms: int | None) -> Any:
        return pa.array(ms, pa.timestamp("ms", "UTC"))

    path = write(
        tmp_path / "a.parquet",
        stamps(5_000, 1_000, 2_999, 3_000),
        streamsvc_watermark=stamps(None, 5_000, 5_000, 5_000),
        streamsvc_partition=pa.array([1, 1, 0, 1], pa.int32()),
        streamsvc_offset=pa.array([7, 8, 3, 9]),
    )
    archive = read_archive(replace(source(path), allowed_lateness_ms=2_000), [], FOREVER)
    assert archive.rows.tolist() == [0, 3]
    assert archive.partition.tolist() == [1, 1, 0, 1]
    assert archive.offset.tolist() == [7, 8, 3, 9]


def test_an_event_counts_from_its_arrival(tmp_path: Path) -> None:
    arrived = pa.array([1_500, None, 900], pa.timestamp("ms", "UTC"))
    times = pa.array([1_000, 1_000, 1_000], pa.timestamp("ms", "UTC"))
    path = write(tmp_path / "a.parquet", times, heard=arrived)
    described = replace(source(path), archive_created_field="heard")
    archive = read_archive(described, [], 1_499)
    assert archive.known.tolist() == [1_500, 1_000, 1_000]
    assert archive.rows.tolist() == [1, 2]
