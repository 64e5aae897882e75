"""Orders of buyers at shops: every kind of view in one FeatureService."""

from datetime import timedelta

import pandas as pd
from feast import (
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    RequestSource,
    StreamFeatureView,
)
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.stream_feature_view import stream_feature_view
from feast.types import Float32, Float64, Int64, String
from feast.value_type import ValueType

buyer = Entity(name="buyer", join_keys=["buyer_id"], value_type=ValueType.STRING)
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64)

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)

orders = KafkaSource(
    name="orders",
    topic="orders",
    message_format=JsonFormat(
        schema_json=(
            "buyer_id STRING, shop_id BIGINT, price DOUBLE, pieces BIGINT, channel STRING, "
            "placed_at STRING"
        )
    ),
    timestamp_field="placed_at",
    batch_source=FileSource(
        name="orders_archive", path="data/orders.parquet", timestamp_field="placed_at"
    ),
)

buyer_spend = StreamFeatureView(
    name="buyer_spend",
    entities=[buyer],
    ttl=2 * DAY,
    source=orders,
    timestamp_field="placed_at",
    aggregations=[
        Aggregation("price", "count", 10 * MINUTE, MINUTE, name="orders_10m"),
        Aggregation("price", "sum", 10 * MINUTE, MINUTE, name="spent_10m"),
        Aggregation("price", "mean", DAY, HOUR, name="usual_price"),
        Aggregation("price", "std", DAY, HOUR, name="price_spread"),
        Aggregation("pieces", "max", DAY, HOUR, name="most_pieces"),
        Aggregation("price", "last", DAY, HOUR, name="last_price"),
        Aggregation("price", "first", DAY, HOUR, name="first_price"),
    ],
    schema=[
        Field(name="buyer_id", dtype=String),
        Field(name="orders_10m", dtype=Int64),
        Field(name="spent_10m", dtype=Float64),
        Field(name="usual_price", dtype=Float32),
        Field(name="price_spread", dtype=Float64),
        Field(name="most_pieces", dtype=Int64),
        Field(name="last_price", dtype=Float64),
        Field(name="first_price", dtype=Float64),
    ],
)

buyer_habits = StreamFeatureView(
    name="buyer_habits",
    entities=[buyer],
    source=orders,
    timestamp_field="placed_at",
    aggregations=[
        Aggregation("shop_id", "count_distinct", DAY, HOUR, name="shops"),
        Aggregation("price", "p90", DAY, HOUR, name="high_price"),
        Aggregation("price", "p50", name="usual_price_ever"),
        Aggregation("price", "count", name="orders_ever"),
        Aggregation("channel", "last", HOUR, MINUTE, name="last_channel"),
        Aggregation("channel", "min", name="least_channel_ever"),
    ],
    schema=[
        Field(name="buyer_id", dtype=String),
        Field(name="shops", dtype=Int64),
        Field(name="high_price", dtype=Float64),
        Field(name="usual_price_ever", dtype=Float64),
        Field(name="orders_ever", dtype=Int64),
        Field(name="last_channel", dtype=String),
        Field(name="least_channel_ever", dtype=String),
    ],
)

buyer_newest = StreamFeatureView(
    name="buyer_newest",
    entities=[buyer],
    source=orders,
    timestamp_field="placed_at",
    schema=[
        Field(name="buyer_id", dtype=String),
        Field(name="shop_id", dtype=Int64),
        Field(name="price", dtype=Float64),
        Field(name="channel", dtype=String),
    ],
)


@stream_feature_view(
    entities=[buyer, shop],
    ttl=timedelta(0),
    source=orders,
    mode="pandas",
    timestamp_field="placed_at",
    aggregations=[
        Aggregation("piece_price", "count", HOUR, MINUTE, name="visits"),
        Aggregation("piece_price", "min", HOUR, MINUTE, name="cheapest"),
    ],
    schema=[
        Field(name="buyer_id", dtype=String),
        Field(name="shop_id", dtype=Int64),
        Field(name="visits", dtype=Int64),
        Field(name="cheapest", dtype=Float64),
    ],
)
def buyer_at_shop(events):
    """Price of a piece; orders of no pieces are left out."""
    events = events[events["pieces"] > 0].copy()
    events["piece_price"] = events["price"] / events["pieces"].astype("float64")
    return events


shop_rating = FeatureView(
    name="shop_rating",
    entities=[shop],
    ttl=timedelta(days=2),
    schema=[Field(name="shop_id", dtype=Int64), Field(name="stars", dtype=Float64)],
    source=FileSource(
        name="ratings",
        path="data/ratings.parquet",
        timestamp_field="rated_at",
        created_timestamp_column="known_at",
    ),
)

offer = RequestSource(name="offer", schema=[Field(name="offered", dtype=Float64)])


@on_demand_feature_view(
    sources=[offer, buyer_spend],
    schema=[Field(name="offered_share", dtype=Float64)],
)
def bargain(inputs: pd.DataFrame) -> pd.DataFrame:
    """The offered price against what the buyer paid last."""
    return pd.DataFrame({"offered_share": inputs["offered"] / inputs["last_price"]})


will_buy = FeatureService(
    name="will_buy", features=[buyer_spend, buyer_at_shop, shop_rating, bargain]
)
OBJECTS = [
    buyer,
    shop,
    orders,
    buyer_spend,
    buyer_habits,
    buyer_newest,
    buyer_at_shop,
    shop_rating,
    bargain,
    will_buy,
]
