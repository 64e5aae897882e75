"""What a model reads, and how requests become predictions."""

from feast import FeatureService
from features import (
    aircraft_arrivals,
    aircraft_departures,
    aircraft_register,
    carrier_arrivals,
    carrier_departures,
    destination_arrivals,
    flight_arrivals,
    hub_departures,
    origin_arrivals,
    origin_departures,
    route_arrivals,
    timetable,
    turnaround,
)

from streamsvc import ScoringRoute

# Will a flight arrive at least 15 minutes late? Asked 60 minutes before its scheduled departure.
late_arrival = FeatureService(
    name="late_arrival",
    features=[
        timetable,
        origin_departures,
        origin_arrivals,
        carrier_departures,
        carrier_arrivals,
        hub_departures,
        destination_arrivals,
        route_arrivals,
        flight_arrivals,
        aircraft_departures[
            [
                "aircraft_legs_1d",
                "aircraft_dep_delay_mean_1d",
                "aircraft_dep_delay_last",
                "aircraft_distance_last",
            ]
        ],
        aircraft_arrivals[["aircraft_arr_delay_mean_1d", "aircraft_arr_delay_last"]],
        turnaround,
        aircraft_register,
    ],
    tags=ScoringRoute(
        requests="flights.scheduled",
        model="late_arrival",
        predictions="predictions.late_arrival",
        deadline_ms=1_000,
        freshness_wait_ms=10,
        default=0.24,  # the share of late flights
        labels="flights.arrived",  # of the same aircraft on the same flight, a few hours later
        label_field="arr_delay",
        label_from=15,
        label_window_ms=36 * 3_600_000,
    ).tags(),
)
