"""What a model of payment risk reads. Every payment is itself a request."""

import os

from feast import FeatureService
from features import card_abroad, card_in_shop, card_spend, shop_sales

from streamsvc import ScoringRoute

payment_risk = FeatureService(
    name="payment_risk",
    features=[card_spend, card_abroad, card_in_shop, shop_sales[["count_amount_3600s"]]],
    tags=ScoringRoute(
        requests=os.environ.get("PAYMENTS_TOPIC", "payments"),
        model="payment_risk",
        deadline_ms=500,
    ).tags(),
)
