from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from streamsvc.agents.replay import EventFile, read_events
from streamsvc.columns import strings
from streamsvc.definitions.plan import AvroEncoding, EventField, EventSchema, Source, TimeUnit
from streamsvc.entity_keys import murmur2
from streamsvc.errors import ConfigurationError

NOON = datetime(2013, 1, 1, 12, tzinfo=UTC)
NOON_MS = 1_357_041_600_000


def source(
    time_type: str = "int64", unit: TimeUnit | None = "ms", key: str | None = None
) -> Source:
    schema = EventSchema(
        fields=(
            EventField("card", ("card",), "string"),
            EventField("n", ("n",), "int64"),
            EventField("shop.id", ("shop", "id"), "int64"),
            EventField("at", ("at",), time_type, nullable=False),  # type: ignore[arg-type]
        ),
        timestamp_field="at",
        time_unit=unit,
    )
    return Source("payments", "topic", schema, 0, 0, key, None)


def records(file: EventFile) -> list[dict[str, object]]:
    return [json.loads(file.record(row)[1]) for row in range(len(file))]


def write(path: Path, **columns: object) -> Path:
    pd.DataFrame(columns).to_parquet(path)
    return path


def test_records_are_sorted_by_event_time_and_typed_as_declared(tmp_path: Path) -> None:
    path = write(
        tmp_path / "e.parquet",
        card=["b", "a", "c", None],
        n=[2.0, None, 3.0, 4.0],  # pandas has no null integer
        extra=[0.5, 1.5, 2.5, float("nan")],
        at=pd.to_datetime([NOON_MS + 2, NOON_MS + 1, NOON_MS + 2, NOON_MS], unit="ms", utc=True),
    )
    file = read_events(source(), path)
    assert file.times.tolist() == [NOON_MS, NOON_MS + 1, NOON_MS + 2, NOON_MS + 2]
    assert records(file) == [
        {"card": None, "n": 4, "extra": None, "at": NOON_MS},
        {"card": "a", "n": None, "extra": 1.5, "at": NOON_MS + 1},
        {"card": "b", "n": 2, "extra": 0.5, "at": NOON_MS + 2},  # ties keep the file's order
        {"card": "c", "n": 3, "extra": 2.5, "at": NOON_MS + 2},
    ]


@pytest.mark.parametrize(
    ("unit", "written"),
    [("s", NOON_MS // 1000), ("ms", NOON_MS), ("us", NOON_MS * 1000), ("ns", NOON_MS * 10**6)],
)
def test_event_times_are_written_in_the_declared_unit(
    tmp_path: Path, unit: TimeUnit, written: int
) -> None:
    stamps = write(tmp_path / "stamps.parquet", at=[NOON])
    numbers = write(tmp_path / "numbers.parquet", at=[written])
    for path in (stamps, numbers):
        file = read_events(source(unit=unit), path)
        assert file.times.tolist() == [NOON_MS]
        assert records(file) == [{"at": written}]


def test_a_time_that_no_value_holds_is_that_of_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", card=["a", "b"], at=[NOON_MS + 1, NOON_MS])
    file = read_events(source(unit="kafka"), path)
    assert records(file) == [{"card": "b"}, {"card": "a"}]
    assert [file.kafka_ms(row) for row in range(2)] == [NOON_MS, NOON_MS + 1]
    assert read_events(source(), path).kafka_ms(0) is None


def test_iso_text_keeps_its_milliseconds(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_text('{"at": "2013-01-01T13:00:00.250+01:00"}\n{"at": "2013-01-01T11:59:59Z"}\n')
    file = read_events(source("string", None), path)
    assert file.times.tolist() == [NOON_MS - 1_000, NOON_MS + 250]
    assert [datetime.fromisoformat(str(r["at"])) for r in records(file)] == [
        datetime.fromtimestamp((NOON_MS - 1_000) / 1000, UTC),
        datetime.fromtimestamp((NOON_MS + 250) / 1000, UTC),
    ]


def test_csv_is_typed_by_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "e.csv"
    path.write_text(f"card,n,at\n0042,7,{NOON_MS}\n,,{NOON_MS}\n")
    assert records(read_events(source(), path)) == [
        {"card": "0042", "n": 7, "at": NOON_MS},
        {"card": None, "n": None, "at": NOON_MS},
    ]


def test_a_dotted_column_becomes_a_nested_object(tmp_path: Path) -> None:
    frame = pd.DataFrame({"shop.id": [7], "at": [NOON]})
    frame.to_parquet(tmp_path / "e.parquet")
    assert records(read_events(source(), tmp_path / "e.parquet")) == [
        {"at": NOON_MS, "shop": {"id": 7}}
    ]


def test_bounds_include_the_first_instant_and_exclude_the_last(tmp_path: Path) -> None:
    times = [NOON_MS + i for i in range(5)]
    path = write(tmp_path / "e.parquet", at=times)
    file = read_events(source(), path, from_ms=NOON_MS + 1, until_ms=NOON_MS + 3)
    assert file.times.tolist() == times[1:3]


def test_keys_partition_as_kafka_does(tmp_path: Path) -> None:
    cards = ["a", "b", None, "c"] * 5
    path = write(tmp_path / "e.parquet", card=cards, n=range(20), at=[NOON] * 20)
    file = read_events(source(key="card"), path)
    places = file.partitions(4)
    hashed = murmur2(strings([c or "" for c in cards])) % 4
    present = np.array([c is not None for c in cards])
    assert places[present].tolist() == hashed[present].tolist()
    assert [file.record(row)[0] for row in range(3)] == [b"a", b"b", None]
    assert read_events(source(), path, key="n").record(12)[0] == b"12"


def test_without_a_key_records_are_dealt_out(tmp_path: Path) -> None:
    path = write(tmp_path / "e.parquet", at=[NOON] * 6)
    file = read_events(source(), path)
    assert file.partitions(4).tolist() == [0, 1, 2, 3, 0, 1]
    assert file.record(5)[0] is None


def test_records_may_be_asked_for_in_any_order(tmp_path: Path) -> None:
    n = 10_000
    path = write(tmp_path / "e.parquet", n=range(n), at=[NOON_MS + i for i in range(n)])
    file = read_events(source(), path)
    for row in (0, 9_999, 4_095, 4_096, 17):
        assert json.loads(file.record(row)[1])["n"] == row


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"card": ["a"]}, "has no column 'at'; it has card"),
        ({"at": [None, NOON]}, "1 records have no event time"),
        ({"at": ["yesterday"]}, "cannot be read"),
        ({"at": [NOON], "n": ["x"]}, "column 'n' is not int64"),
    ],
)
def test_a_file_that_cannot_be_published_is_told(
    tmp_path: Path, columns: dict[str, object], told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        read_events(source(), write(tmp_path / "e.parquet", **columns))


def test_a_topic_that_takes_no_json_is_refused(tmp_path: Path) -> None:
    made = source()
    avro = replace(made, schema=replace(made.schema, encoding=AvroEncoding("{}", framed=False)))
    with pytest.raises(ConfigurationError, match="takes Avro or Protobuf, and replays write JSON"):
        read_events(avro, write(tmp_path / "e.parquet", at=[NOON]))


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="events are read from"):
        read_events(source(), tmp_path / "e.xlsx")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_events(source(), tmp_path / "missing.parquet")
    with pytest.raises(ConfigurationError, match="no column 'crad'"):
        read_events(source(), write(tmp_path / "e.parquet", at=[NOON]), key="crad")
