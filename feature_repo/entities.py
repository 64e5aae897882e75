"""What features are about. The join key is the name of the column in the events."""

from feast import Entity
from feast.value_type import ValueType

origin = Entity(
    name="origin",
    join_keys=["origin"],
    value_type=ValueType.STRING,
    description="Airport of departure: EWR, JFK or LGA",
)
destination = Entity(
    name="destination",
    join_keys=["dest"],
    value_type=ValueType.STRING,
    description="Airport of arrival",
)
carrier = Entity(
    name="carrier",
    join_keys=["carrier"],
    value_type=ValueType.STRING,
    description="Two-letter code of the airline",
)
flight_number = Entity(
    name="flight_number",
    join_keys=["flight"],
    value_type=ValueType.INT64,
    description="The carrier's number for a flight that it repeats; unique with the carrier only",
)
aircraft = Entity(
    name="aircraft",
    join_keys=["tailnum"],
    value_type=ValueType.STRING,
    description="One machine, by its tail number",
)
