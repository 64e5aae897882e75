"""Windowed features of cards, of shops, and of a card in a shop.

PAYMENTS_GRID_MINUTES changes two of the views: `card_in_shop`, and the usual price in
`card_abroad`. PAYMENTS_UPDATES is the topic of the updates of `card_spend`, if it has one.
"""

import os
from datetime import timedelta

from entities import card, shop
from feast import Aggregation, Field, StreamFeatureView
from feast.stream_feature_view import stream_feature_view
from feast.types import Bool, Float64, Int64, String
from sources import payments

TEN_MINUTES = timedelta(minutes=10)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
WEEK = timedelta(days=7)
UPDATES = os.environ.get("PAYMENTS_UPDATES")
GRID = timedelta(minutes=int(os.environ.get("PAYMENTS_GRID_MINUTES", "30")))

# Ten minutes on a ten-second grid, an hour on the default grid (a minute), a day on an hourly one.
card_spend = StreamFeatureView(
    name="card_spend",
    entities=[card],
    source=payments,
    timestamp_field="paid_at",
    aggregations=[
        Aggregation("amount", "count", TEN_MINUTES, timedelta(seconds=10)),
        Aggregation("amount", "sum", TEN_MINUTES, timedelta(seconds=10)),
        Aggregation("amount", "mean", HOUR),
        Aggregation("amount", "std", HOUR),
        Aggregation("amount", "max", HOUR),
        Aggregation("amount", "last", HOUR, name="last_amount"),
        Aggregation("amount", "first", DAY, HOUR, name="first_amount_of_day"),
        Aggregation("items", "sum", DAY, HOUR),
        Aggregation("amount", "min", DAY, HOUR),
        Aggregation("amount", "max", DAY, HOUR),
    ],
    schema=[
        Field(name="card_id", dtype=String),
        Field(name="count_amount_600s", dtype=Int64),
        Field(name="sum_amount_600s", dtype=Float64),
        Field(name="mean_amount_3600s", dtype=Float64),
        Field(name="std_amount_3600s", dtype=Float64),
        Field(name="max_amount_3600s", dtype=Float64),
        Field(name="last_amount", dtype=Float64),
        Field(name="first_amount_of_day", dtype=Float64),
        Field(name="sum_items_86400s", dtype=Int64),
        Field(name="min_amount_86400s", dtype=Float64),
        Field(name="max_amount_86400s", dtype=Float64),
    ],
    tags={"streamsvc.updates": UPDATES} if UPDATES else {},
)

# All windows on one five-minute grid.
shop_sales = StreamFeatureView(
    name="shop_sales",
    entities=[shop],
    source=payments,
    timestamp_field="paid_at",
    tiling_hop_size=timedelta(minutes=5),
    aggregations=[
        Aggregation("amount", "count", HOUR),
        Aggregation("amount", "sum", HOUR),
        Aggregation("amount", "var", DAY),
        Aggregation("items", "max", DAY),
        Aggregation("amount", "mean", WEEK, HOUR),
    ],
    schema=[
        Field(name="shop_id", dtype=Int64),
        Field(name="count_amount_3600s", dtype=Int64),
        Field(name="sum_amount_3600s", dtype=Float64),
        Field(name="var_amount_86400s", dtype=Float64),
        Field(name="max_items_86400s", dtype=Int64),
        Field(name="mean_amount_604800s", dtype=Float64),
    ],
)

# Sketches, text, and everything since the beginning.
card_habits = StreamFeatureView(
    name="card_habits",
    entities=[card],
    source=payments,
    timestamp_field="paid_at",
    aggregations=[
        Aggregation("shop_id", "count_distinct", DAY, HOUR, name="shops_of_day"),
        Aggregation("payment_id", "count_distinct", name="payments_ever"),
        Aggregation("amount", "p50", DAY, HOUR, name="usual_amount_of_day"),
        Aggregation("amount", "p95", HOUR, name="high_amount_of_hour"),
        Aggregation("amount", "p99", name="high_amount_ever"),
        Aggregation("amount", "sum", name="spent_ever"),
        Aggregation("country", "last", HOUR, name="last_country"),
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

# No aggregations: the newest payment of a card, nulls and all.
card_newest = StreamFeatureView(
    name="card_newest",
    entities=[card],
    source=payments,
    timestamp_field="paid_at",
    schema=[
        Field(name="card_id", dtype=String),
        Field(name="payment_id", dtype=String),
        Field(name="amount", dtype=Float64),
        Field(name="items", dtype=Int64),
        Field(name="country", dtype=String),
        Field(name="online", dtype=Bool),
    ],
)

card_in_shop = StreamFeatureView(
    name="card_in_shop",
    entities=[card, shop],
    source=payments,
    timestamp_field="paid_at",
    aggregations=[
        Aggregation("amount", "count", DAY, GRID, name="visits"),
        Aggregation("amount", "mean", DAY, GRID, name="usual_amount"),
    ],
    schema=[
        Field(name="card_id", dtype=String),
        Field(name="shop_id", dtype=Int64),
        Field(name="visits", dtype=Int64),
        Field(name="usual_amount", dtype=Float64),
    ],
)


@stream_feature_view(
    entities=[card],
    ttl=timedelta(0),
    source=payments,
    mode="pandas",
    timestamp_field="paid_at",
    aggregations=[
        Aggregation("amount_abroad", "count", HOUR, name="payments_abroad"),
        Aggregation("amount_abroad", "sum", HOUR, name="spent_abroad"),
        Aggregation("amount_per_item", "mean", DAY, 2 * GRID, name="usual_price"),
    ],
    schema=[
        Field(name="card_id", dtype=String),
        Field(name="payments_abroad", dtype=Int64),
        Field(name="spent_abroad", dtype=Float64),
        Field(name="usual_price", dtype=Float64),
    ],
)
def card_abroad(events):
    """Payments outside the home country; those without a country are left out."""
    events = events[events["country"].notna()].copy()
    events["amount_abroad"] = events["amount"].where(events["country"] != "NL")
    items = events["items"].astype("float64")
    events["amount_per_item"] = events["amount"] / items.where(items > 0)
    return events
