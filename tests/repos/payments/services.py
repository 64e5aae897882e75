"""What a model of payment risk reads. Every payment is itself a request.

PAYMENTS_SERVICE names the route (default `payment_risk`), and so the topics of what it answers, so
that tests can share a broker. With PAYMENTS_ONCE set there is a second route, whose predictions
come exactly once.
"""

import os

from feast import FeatureService
from features import card_abroad, card_in_shop, card_spend, shop_sales

from streamsvc import ScoringRoute

FEATURES = [card_spend, card_abroad, card_in_shop, shop_sales[["count_amount_3600s"]]]


def route(**options):
    """Tags of a route of the one model."""
    topic = os.environ.get("PAYMENTS_TOPIC", "payments")
    return ScoringRoute(requests=topic, model="payment_risk", deadline_ms=500, **options).tags()


payment_risk = FeatureService(
    name=os.environ.get("PAYMENTS_SERVICE", "payment_risk"), features=FEATURES, tags=route()
)

if "PAYMENTS_ONCE" in os.environ:
    payment_risk_once = FeatureService(
        name="payment_risk_once", features=FEATURES, tags=route(delivery="exactly_once")
    )
