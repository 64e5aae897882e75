"""How a card is used: in the last seconds, minutes and days.

A window ends at the instant of the payment that asks, that payment included; its start moves on the
grid given by `slide_interval`. Seconds need a fine grid and days do not: each window has its own.
"""

from datetime import timedelta

from entities import card
from feast import Aggregation, Field, StreamFeatureView
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from sources import payments, request

SECOND, SECONDS_5, SECONDS_10 = (timedelta(seconds=n) for n in (1, 5, 10))
MINUTE, MINUTES_10, HOUR = timedelta(minutes=1), timedelta(minutes=10), timedelta(hours=1)
DAY, DAYS_3 = timedelta(days=1), timedelta(days=3)


def about_cards(name, description, aggregations):
    """A view of cards with one feature per aggregation."""
    features = [
        Field(name=a.name, dtype=Int64 if a.function.startswith("count") else Float64)
        for a in aggregations
    ]
    return StreamFeatureView(
        name=name,
        description=description,
        entities=[card],
        source=payments,
        timestamp_field="paid_at",
        aggregations=aggregations,
        schema=[Field(name="card_id", dtype=String), *features],
    )


# Whoever has bought stolen card numbers tries them with small payments, several within seconds.
card_seconds = about_cards(
    "card_seconds",
    "Is this card being tried out right now?",
    [
        Aggregation("amount", "count", SECONDS_5, SECOND, name="payments_5s"),
        Aggregation("amount", "sum", SECONDS_5, SECOND, name="spent_5s"),
        Aggregation("shop_id", "count_distinct", SECONDS_5, SECOND, name="shops_5s"),
    ],
)

# Where the trial went well, somebody buys something worth the trouble a few minutes later.
card_minutes = about_cards(
    "card_minutes",
    "What has happened before this payment?",
    [
        Aggregation("amount", "count", MINUTES_10, SECONDS_10, name="payments_10m"),
        Aggregation("amount", "min", MINUTES_10, SECONDS_10, name="smallest_10m"),
        Aggregation("amount", "count", HOUR, MINUTE, name="payments_1h"),
        Aggregation("amount", "sum", HOUR, MINUTE, name="spent_1h"),
    ],
)

card_days = about_cards(
    "card_days",
    "What is usual for this card?",
    [
        Aggregation("amount", "count", DAY, HOUR, name="payments_1d"),
        Aggregation("amount", "mean", DAYS_3, HOUR, name="usual_amount_3d"),
        Aggregation("amount", "max", DAYS_3, HOUR, name="largest_3d"),
    ],
)


# What the payment itself says, and how it compares with what is usual.
@on_demand_feature_view(
    sources=[request, card_days[["usual_amount_3d"]]],
    mode="pandas",
    schema=[
        Field(name="amount_paid", dtype=Float64),
        Field(name="paid_online", dtype=Float64),
        Field(name="times_usual", dtype=Float64),
    ],
)
def this_payment(inputs):
    """`times_usual` is 1 for the first payment of a card: the mean contains it already."""
    import pandas as pd

    return pd.DataFrame(
        {
            "amount_paid": inputs["amount"],
            "paid_online": inputs["online"].astype("float64"),
            "times_usual": inputs["amount"] / inputs["usual_amount_3d"],
        }
    )
