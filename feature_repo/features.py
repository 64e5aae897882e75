"""Features of a flight that has not left yet, from everything that has happened until now.

A `StreamFeatureView` is computed by `streamsvc worker features` from Kafka and by
`get_historical_features` from the archive, with the same code: what the model learns from is what
it is served. A window ends at the instant of the request, inclusive; its start moves on the grid
given by `slide_interval`.
"""

from datetime import timedelta

from entities import aircraft, carrier, destination, flight_number, origin
from feast import Aggregation, FeatureView, Field, StreamFeatureView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.stream_feature_view import stream_feature_view
from feast.types import Float64, Int64, String
from sources import arrived, departed, register, request

MINUTES_5 = timedelta(minutes=5)
HOUR, HOURS_3, DAY = timedelta(hours=1), timedelta(hours=3), timedelta(days=1)
WEEK, MONTH = timedelta(days=7), timedelta(days=30)


def schema(aggregations, **join_keys):
    """The columns of a view: its join keys, and one feature per aggregation."""
    keys = [Field(name=name, dtype=dtype) for name, dtype in join_keys.items()]
    return keys + [
        Field(name=a.name, dtype=Int64 if a.function == "count" else Float64) for a in aggregations
    ]


# --- how the airport of departure is doing -------------------------------------------------------
ORIGIN_DEPARTURES = [
    Aggregation("dep_delay", "count", HOUR, MINUTES_5, name="origin_departures_1h"),
    Aggregation("dep_delay", "mean", HOUR, MINUTES_5, name="origin_dep_delay_mean_1h"),
    Aggregation("dep_delay", "max", HOUR, MINUTES_5, name="origin_dep_delay_max_1h"),
    Aggregation("left_late", "mean", HOUR, MINUTES_5, name="origin_late_share_1h"),
    Aggregation("dep_delay", "count", HOURS_3, MINUTES_5, name="origin_departures_3h"),
    Aggregation("dep_delay", "mean", HOURS_3, MINUTES_5, name="origin_dep_delay_mean_3h"),
    Aggregation("dep_delay", "std", HOURS_3, MINUTES_5, name="origin_dep_delay_std_3h"),
    Aggregation("left_late", "mean", HOURS_3, MINUTES_5, name="origin_late_share_3h"),
    Aggregation("dep_delay", "count", DAY, HOUR, name="origin_departures_1d"),
    Aggregation("dep_delay", "mean", DAY, HOUR, name="origin_dep_delay_mean_1d"),
    Aggregation("dep_delay", "mean", WEEK, HOUR, name="origin_dep_delay_mean_7d"),
]


@stream_feature_view(
    entities=[origin],
    ttl=timedelta(0),
    source=departed,
    mode="pandas",
    timestamp_field="departed_at",
    aggregations=ORIGIN_DEPARTURES,
    schema=schema(ORIGIN_DEPARTURES, origin=String),
)
def origin_departures(events):
    """A udf maps raw columns to the columns aggregated, each row on its own."""
    events["left_late"] = (events["dep_delay"] >= 15).astype("float64")
    return events


ORIGIN_ARRIVALS = [
    Aggregation("arr_delay", "mean", HOUR, MINUTES_5, name="origin_arr_delay_mean_1h"),
    Aggregation("arr_delay", "mean", HOURS_3, MINUTES_5, name="origin_arr_delay_mean_3h"),
]
origin_arrivals = StreamFeatureView(
    name="origin_arrivals",
    description="Flights from this airport that have arrived somewhere",
    entities=[origin],
    source=arrived,
    timestamp_field="arrived_at",
    aggregations=ORIGIN_ARRIVALS,
    schema=schema(ORIGIN_ARRIVALS, origin=String),
)

# --- how the airline is doing --------------------------------------------------------------------
CARRIER_DEPARTURES = [
    Aggregation("dep_delay", "count", HOURS_3, MINUTES_5, name="carrier_departures_3h"),
    Aggregation("dep_delay", "mean", HOURS_3, MINUTES_5, name="carrier_dep_delay_mean_3h"),
    Aggregation("dep_delay", "mean", DAY, HOUR, name="carrier_dep_delay_mean_1d"),
]
carrier_departures = StreamFeatureView(
    name="carrier_departures",
    entities=[carrier],
    source=departed,
    timestamp_field="departed_at",
    aggregations=CARRIER_DEPARTURES,
    schema=schema(CARRIER_DEPARTURES, carrier=String),
)

CARRIER_ARRIVALS = [
    Aggregation("arr_delay", "mean", HOURS_3, MINUTES_5, name="carrier_arr_delay_mean_3h"),
    Aggregation("arr_delay", "mean", DAY, HOUR, name="carrier_arr_delay_mean_1d"),
    Aggregation("arr_delay", "mean", WEEK, HOUR, name="carrier_arr_delay_mean_7d"),
]
carrier_arrivals = StreamFeatureView(
    name="carrier_arrivals",
    entities=[carrier],
    source=arrived,
    timestamp_field="arrived_at",
    aggregations=CARRIER_ARRIVALS,
    schema=schema(CARRIER_ARRIVALS, carrier=String),
)

# Two entities: the airline at this airport.
HUB_DEPARTURES = [
    Aggregation("dep_delay", "mean", HOURS_3, MINUTES_5, name="hub_dep_delay_mean_3h"),
]
hub_departures = StreamFeatureView(
    name="hub_departures",
    entities=[carrier, origin],
    source=departed,
    timestamp_field="departed_at",
    aggregations=HUB_DEPARTURES,
    schema=schema(HUB_DEPARTURES, carrier=String, origin=String),
)

# --- where it is going ---------------------------------------------------------------------------
DESTINATION_ARRIVALS = [
    Aggregation("arr_delay", "count", HOURS_3, MINUTES_5, name="dest_arrivals_3h"),
    Aggregation("arr_delay", "mean", HOURS_3, MINUTES_5, name="dest_arr_delay_mean_3h"),
    Aggregation("arr_delay", "count", DAY, HOUR, name="dest_arrivals_1d"),
    Aggregation("arr_delay", "mean", DAY, HOUR, name="dest_arr_delay_mean_1d"),
]
destination_arrivals = StreamFeatureView(
    name="destination_arrivals",
    entities=[destination],
    source=arrived,
    timestamp_field="arrived_at",
    aggregations=DESTINATION_ARRIVALS,
    schema=schema(DESTINATION_ARRIVALS, dest=String),
)

ROUTE_ARRIVALS = [
    Aggregation("arr_delay", "mean", DAY, HOUR, name="route_arr_delay_mean_1d"),
    Aggregation("arr_delay", "count", WEEK, HOUR, name="route_arrivals_7d"),
    Aggregation("arr_delay", "mean", WEEK, HOUR, name="route_arr_delay_mean_7d"),
    Aggregation("arr_delay", "mean", MONTH, DAY, name="route_arr_delay_mean_30d"),
]
route_arrivals = StreamFeatureView(
    name="route_arrivals",
    entities=[origin, destination],
    source=arrived,
    timestamp_field="arrived_at",
    aggregations=ROUTE_ARRIVALS,
    schema=schema(ROUTE_ARRIVALS, origin=String, dest=String),
)

# The same flight on other days: a string key and an integer key.
FLIGHT_ARRIVALS = [
    Aggregation("arr_delay", "count", MONTH, DAY, name="flight_arrivals_30d"),
    Aggregation("arr_delay", "mean", MONTH, DAY, name="flight_arr_delay_mean_30d"),
    Aggregation("arr_delay", "last", MONTH, DAY, name="flight_arr_delay_last"),
]
flight_arrivals = StreamFeatureView(
    name="flight_arrivals",
    entities=[carrier, flight_number],
    source=arrived,
    timestamp_field="arrived_at",
    aggregations=FLIGHT_ARRIVALS,
    schema=schema(FLIGHT_ARRIVALS, carrier=String, flight=Int64),
)

# --- which aircraft flies it ---------------------------------------------------------------------
# Its last leg tells most: how late it left, known while it is still in the air, and when it landed.
AIRCRAFT_DEPARTURES = [
    Aggregation("dep_delay", "count", DAY, HOUR, name="aircraft_legs_1d"),
    Aggregation("dep_delay", "mean", DAY, HOUR, name="aircraft_dep_delay_mean_1d"),
    Aggregation("dep_delay", "last", DAY, HOUR, name="aircraft_dep_delay_last"),
    Aggregation("distance", "last", DAY, HOUR, name="aircraft_distance_last"),
    Aggregation("left_ms", "last", DAY, HOUR, name="aircraft_left_ms"),
]


@stream_feature_view(
    entities=[aircraft],
    ttl=timedelta(0),
    source=departed,
    mode="pandas",
    timestamp_field="departed_at",
    aggregations=AIRCRAFT_DEPARTURES,
    schema=schema(AIRCRAFT_DEPARTURES, tailnum=String),
)
def aircraft_departures(events):
    """Without a tail number there is no entity: such rows are left out, not refused."""
    events = events[events["tailnum"].notna()].copy()
    events["left_ms"] = events["scheduled_departure"] + events["dep_delay"] * 60_000.0
    return events


AIRCRAFT_ARRIVALS = [
    Aggregation("arr_delay", "mean", DAY, HOUR, name="aircraft_arr_delay_mean_1d"),
    Aggregation("arr_delay", "last", DAY, HOUR, name="aircraft_arr_delay_last"),
    Aggregation("landed_ms", "last", DAY, HOUR, name="aircraft_landed_ms"),
]


@stream_feature_view(
    entities=[aircraft],
    ttl=timedelta(0),
    source=arrived,
    mode="pandas",
    timestamp_field="arrived_at",
    aggregations=AIRCRAFT_ARRIVALS,
    schema=schema(AIRCRAFT_ARRIVALS, tailnum=String),
)
def aircraft_arrivals(events):
    """When this aircraft was last seen to reach a gate, and how late."""
    events = events[events["tailnum"].notna()].copy()
    events["landed_ms"] = events["scheduled_arrival"] + events["arr_delay"] * 60_000.0
    return events


# A table, materialised by `feast materialize` and served together with the streamed features.
aircraft_register = FeatureView(
    name="aircraft_register",
    entities=[aircraft],
    ttl=timedelta(0),
    source=register,
    schema=[
        Field(name="tailnum", dtype=String),
        Field(name="aircraft_built", dtype=Float64),
        Field(name="aircraft_seats", dtype=Float64),
    ],
)


# --- what the request itself says ----------------------------------------------------------------
@on_demand_feature_view(
    sources=[request],
    mode="pandas",
    schema=[
        Field(name="departure_hour", dtype=Float64),
        Field(name="departure_weekday", dtype=Float64),
        Field(name="planned_minutes", dtype=Float64),
    ],
)
def timetable(inputs):
    """The hour and the weekday in New York, and how long the flight should take."""
    import pandas as pd

    departure = pd.to_datetime(inputs["scheduled_departure"], unit="ms", utc=True)
    local = departure.dt.tz_convert("America/New_York").dt
    planned_ms = inputs["scheduled_arrival"] - inputs["scheduled_departure"]
    return pd.DataFrame(
        {
            "departure_hour": local.hour + local.minute / 60.0,
            "departure_weekday": local.weekday.astype("float64"),
            "planned_minutes": planned_ms / 60_000.0,
        }
    )


# On-demand features may read streamed ones: how long ago did this aircraft leave, and land?
@on_demand_feature_view(
    sources=[
        request,
        aircraft_departures[["aircraft_left_ms"]],
        aircraft_arrivals[["aircraft_landed_ms"]],
    ],
    mode="pandas",
    schema=[
        Field(name="minutes_since_left", dtype=Float64),
        Field(name="minutes_since_landed", dtype=Float64),
    ],
)
def turnaround(inputs):
    """Null for an aircraft that has not been seen for a day."""
    import pandas as pd

    departure = inputs["scheduled_departure"]
    return pd.DataFrame(
        {
            "minutes_since_left": (departure - inputs["aircraft_left_ms"]) / 60_000.0,
            "minutes_since_landed": (departure - inputs["aircraft_landed_ms"]) / 60_000.0,
        }
    )
