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

# Sketches, text, and everything since the beginning.
card_habits = StreamFeatureView(
    name="card_habits",
    entities=[card],
    source=payments,
    timestamp_field="paid_at",
    aggregations=[
        Aggregation(
            "shop_id", "count_distinct", timedelta(days=1), timedelta(hours=1), name="shops_of_day"
        ),
        Aggregation("payment_id", "count_distinct", name="payments_ever"),
        Aggregation(
            "amount", "p50", timedelta(days=1), timedelta(hours=1), name="usual_amount_of_day"
        ),
        Aggregation("amount", "p95", timedelta(hours=1), name="high_amount_of_hour"),
        Aggregation("amount", "p99", name="high_amount_ever"),
        Aggregation("amount", "sum", name="spent_ever"),
        Aggregation("country", "last", timedelta(hours=1), name="last_country"),
        Aggregation("payment_id", "first", name="first_payment_ever"),
    ],
    schema=[
        Field(name="card_id", dtype=String),
        Field(name="shops_of_day", dtype=Int64),
        Field(name="payments_ever", dtype=Int64),
        Field(name="usual_amount_of_day", dtype=Float64),
        Field(name="high_amount_of_hour", dtype=Float64),
        Field(name="high_amount_ever", dtype=Float64),
        Field(name="spent_ever", dtype=Float64),
        Field(name="last_country", dtype=String),
        Field(name="first_payment_ever", dtype=String),
    ],
)
