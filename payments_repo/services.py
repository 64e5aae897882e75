"""What the model reads, and how payments become predictions."""

from feast import FeatureService
from features import card_days, card_minutes, card_seconds, this_payment

from streamsvc import ScoringRoute

# Is this payment made by a thief? Every payment asks, and is in the features by then: requests come
# from the very topic that the features are made of.
fraud = FeatureService(
    name="fraud",
    features=[card_seconds, card_minutes, card_days, this_payment],
    tags=ScoringRoute(
        requests="payments",
        model="fraud",
        predictions="predictions.fraud",
        deadline_ms=1_000,
        freshness_wait_ms=200,  # no cashier notices; README.md says what it is worth
        default=0.0,  # no answer in time: let them pay
        start="latest",  # answer no payments from before there was a model
    ).tags(),
)
