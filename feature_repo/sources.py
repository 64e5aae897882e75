"""Where events come from: three Kafka topics, and the archives of the same events as files.

Event times are milliseconds since the epoch, in UTC. Each airport publishes what happens there as
it happens, so an event may reach Kafka a few minutes after an earlier one: `LATENESS` is how many.
"""

from datetime import timedelta

from feast import FileSource, KafkaSource, RequestSource
from feast.data_format import JsonFormat
from feast.field import Field
from feast.types import Int64

LATENESS = timedelta(minutes=5)
MILLISECONDS = {"streamsvc.time_unit": "ms"}

FLIGHT = """
    flight_id STRING NOT NULL, carrier STRING NOT NULL, flight BIGINT NOT NULL, tailnum STRING,
    origin STRING NOT NULL, dest STRING NOT NULL, distance DOUBLE NOT NULL,
    scheduled_departure BIGINT NOT NULL, scheduled_arrival BIGINT NOT NULL
"""

# Sixty minutes before a scheduled departure: will this flight arrive late? This is the request.
scheduled = KafkaSource(
    name="scheduled",
    topic="flights.scheduled",
    message_format=JsonFormat(schema_json=f"{FLIGHT}, requested_at BIGINT"),
    timestamp_field="requested_at",
    tags=MILLISECONDS,
    watermark_delay_threshold=LATENESS,
    batch_source=FileSource(
        name="scheduled_archive", path="data/scheduled.parquet", timestamp_field="requested_at"
    ),
)

# An aircraft has left the gate. `dep_delay` is in minutes, negative if early.
departed = KafkaSource(
    name="departed",
    topic="flights.departed",
    message_format=JsonFormat(schema_json=f"{FLIGHT}, dep_delay DOUBLE, departed_at BIGINT"),
    timestamp_field="departed_at",
    tags=MILLISECONDS,
    watermark_delay_threshold=LATENESS,
    batch_source=FileSource(
        name="departed_archive", path="data/departed.parquet", timestamp_field="departed_at"
    ),
)

# It has reached the gate at its destination. `arr_delay` is in minutes, negative if early.
arrived = KafkaSource(
    name="arrived",
    topic="flights.arrived",
    message_format=JsonFormat(schema_json=f"{FLIGHT}, arr_delay DOUBLE, arrived_at BIGINT"),
    timestamp_field="arrived_at",
    tags=MILLISECONDS,
    watermark_delay_threshold=LATENESS,
    batch_source=FileSource(
        name="arrived_archive", path="data/arrived.parquet", timestamp_field="arrived_at"
    ),
)

# The aircraft register: a table, not a stream. Every row was known before the first flight.
register = FileSource(
    name="register", path="data/register.parquet", timestamp_field="registered_at"
)

# What an on-demand feature may read of the request itself.
request = RequestSource(
    name="request",
    schema=[
        Field(name="scheduled_departure", dtype=Int64),
        Field(name="scheduled_arrival", dtype=Int64),
    ],
)
