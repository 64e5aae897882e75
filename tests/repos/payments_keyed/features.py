"""Fifteen features of a card, computed where its payments arrive, and a shuffled view of shops."""

from datetime import timedelta

from entities import card, shop
from feast import Aggregation, Field, StreamFeatureView
from feast.types import Float64, Int64, String
from sources import payments

WINDOWS = [timedelta(minutes=10), timedelta(hours=1), timedelta(days=1)]
FUNCTIONS = ["count", "sum", "mean", "min", "max"]

card_spend = StreamFeatureView(
    name="card_spend",
    entities=[card],
    source=payments,
    timestamp_field="paid_at",
    aggregations=[Aggregation("amount", f, w) for w in WINDOWS for f in FUNCTIONS],
    schema=[
        Field(name="card_id", dtype=String),
        *(
            Field(
                name=f"{f}_amount_{w // timedelta(seconds=1)}s",
                dtype=Int64 if f == "count" else Float64,
            )
            for w in WINDOWS
            for f in FUNCTIONS
        ),
    ],
)

shop_sales = StreamFeatureView(
    name="shop_sales",
    entities=[shop],
    source=payments,
    timestamp_field="paid_at",
    aggregations=[Aggregation("amount", "sum", timedelta(hours=1), name="sold_last_hour")],
    schema=[Field(name="shop_id", dtype=Int64), Field(name="sold_last_hour", dtype=Float64)],
)
