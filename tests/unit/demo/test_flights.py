"""The flights of 2013 against their own local clock times."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest

from streamsvc.demo import flights as module
from streamsvc.demo.flights import FlightTables, flight_tables, flights_in_utc, write_flights
from streamsvc.errors import ConfigurationError

MINUTE_MS = 60_000


@pytest.fixture(scope="module")
def flights() -> pd.DataFrame:
    return flights_in_utc()


@pytest.fixture(scope="module")
def tables() -> FlightTables:
    return flight_tables()


def _clock(times: pd.Series, zone: str) -> pd.Series:
    local = times.dt.tz_convert(zone).dt
    return local.hour * 100 + local.minute


def test_departures_agree_with_the_clock_in_new_york(flights: pd.DataFrame) -> None:
    left = flights[flights["departed_at"].notna()]
    assert (_clock(left["departed_at"], "America/New_York") == left["dep_time"] % 2400).all()


@pytest.mark.parametrize(
    ("airports", "zone"),
    [
        (["BQN", "SJU", "PSE"], "America/Puerto_Rico"),
        (["STT"], "America/St_Thomas"),
        (["LAX", "SFO"], "America/Los_Angeles"),
        (["PHX"], "America/Phoenix"),
        (["HNL"], "Pacific/Honolulu"),
        (["ANC"], "America/Anchorage"),
        (["BOS", "MIA"], "America/New_York"),
        (["ORD"], "America/Chicago"),
    ],
)
def test_arrivals_agree_with_the_clock_at_the_destination(
    flights: pd.DataFrame, airports: list[str], zone: str
) -> None:
    landed = flights[flights["dest"].isin(airports) & flights["arrived_at"].notna()]
    assert len(landed) > 0
    same = _clock(landed["arrived_at"], zone) == landed["arr_time"] % 2400
    # One flight was under way when the clocks went forward; its record forgot the lost hour.
    spring = landed["arrived_at"].between(
        pd.Timestamp("2013-03-10 06:00", tz="UTC"), pd.Timestamp("2013-03-10 12:00", tz="UTC")
    )
    assert (same | spring).all()
    assert same.mean() > 0.9999


def test_flights_take_as_long_as_they_were_in_the_air(flights: pd.DataFrame) -> None:
    landed = flights[flights["arrived_at"].notna()]
    gate_to_gate = (landed["arrived_at"] - landed["departed_at"]).dt.total_seconds() / 60
    taxi = gate_to_gate - landed["air_time"]
    assert taxi.between(5, 240).all()


def test_a_red_eye_arrives_on_the_next_day(flights: pd.DataFrame) -> None:
    late = flights[(flights["origin"] == "JFK") & (flights["dest"] == "SJU")].copy()
    overnight = late[late["sched_arr_time"] < late["sched_dep_time"]]
    assert len(overnight) > 100
    planned = overnight["scheduled_arrival"] - overnight["scheduled_departure"]
    assert (planned / MINUTE_MS).between(150, 300).all()


def test_counts(tables: FlightTables) -> None:
    assert len(tables.scheduled) == len(tables.labels) == 336_776
    assert len(tables.departed) == 336_776 - 8_255
    assert len(tables.arrived) == 336_776 - 9_430
    assert tables.labels["late"].isna().mean() == pytest.approx(0.028, abs=0.0005)
    total = len(tables.scheduled) + len(tables.departed) + len(tables.arrived)
    assert total == 992_643


@pytest.mark.parametrize(
    ("name", "time"),
    [("scheduled", "requested_at"), ("departed", "departed_at"), ("arrived", "arrived_at")],
)
def test_events_are_in_event_time_order(tables: FlightTables, name: str, time: str) -> None:
    table = getattr(tables, name)
    assert table[time].is_monotonic_increasing
    assert str(table[time].dtype) == "datetime64[ms, UTC]"
    assert table["flight_id"].is_unique
    assert table.drop(columns=["tailnum"]).notna().all().all()


def test_no_request_can_see_its_own_flight_leave(tables: FlightTables) -> None:
    asked = tables.scheduled.set_index("flight_id")["requested_at"]
    left = tables.departed.set_index("flight_id")["departed_at"]
    both = pd.concat([asked, left], axis=1).dropna()
    assert (both["departed_at"] - both["requested_at"]).min() == pd.Timedelta(minutes=17)


def test_a_request_comes_an_hour_before_the_departure(tables: FlightTables) -> None:
    asked = tables.scheduled["requested_at"].astype("int64")
    assert (tables.scheduled["scheduled_departure"] - asked == 60 * MINUTE_MS).all()


def test_requests_hold_nothing_that_is_known_later(tables: FlightTables) -> None:
    assert not {"dep_delay", "arr_delay", "departed_at", "arrived_at", "late"} & set(
        tables.scheduled.columns
    )


def test_labels_say_late_from_fifteen_minutes_on(tables: FlightTables) -> None:
    known = tables.labels[tables.labels["arr_delay"].notna()]
    assert (known["late"] == (known["arr_delay"] >= 15)).all()
    assert tables.labels["event_timestamp"].equals(
        tables.scheduled["requested_at"].rename("event_timestamp")
    )


def test_the_register_was_known_before_the_first_event(tables: FlightTables) -> None:
    assert tables.register["tailnum"].is_unique
    assert tables.register["registered_at"].max() < tables.scheduled["requested_at"].min()


def test_files_are_written_alike_every_time(tmp_path: Path, tables: FlightTables) -> None:
    written = write_flights(tmp_path)
    assert sorted(p.name for p in written) == [
        "arrived.parquet", "departed.parquet", "labels.parquet", "register.parquet",
        "scheduled.parquet",
    ]  # fmt: skip
    found = pd.read_parquet(tmp_path / "arrived.parquet")
    assert found["flight_id"].equals(tables.arrived["flight_id"])
    assert found["arrived_at"].equals(tables.arrived["arrived_at"])


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda _name: None)
    with pytest.raises(ConfigurationError, match="streamsvc\\[train\\]"):
        flights_in_utc()


def test_every_zone_is_known() -> None:
    for zone in module._OTHER_ZONES.values():
        assert ZoneInfo(zone)
