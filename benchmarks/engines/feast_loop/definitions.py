"""What the loop writes: one row a user, as features of a plain view."""

from datetime import timedelta

from feast import Entity, FeatureView, Field, FileSource
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
spend = FeatureView(
    name="spend",
    entities=[user],
    ttl=timedelta(0),
    source=FileSource(name="spend", path="spend.parquet", timestamp_field="event_timestamp"),
    schema=[
        Field(name="user", dtype=String),
        Field(name="count", dtype=Int64),
        *(Field(name=name, dtype=Float64) for name in ("sum", "mean", "min", "max")),
    ],
)
