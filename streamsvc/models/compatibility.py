"""Whether a model's features are those that its FeatureService gives it now."""

from __future__ import annotations

from streamsvc.definitions.meaning import feature_meanings, feature_types
from streamsvc.definitions.plan import Plan, Service
from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import ModelCard

__all__ = ["check_features", "check_routable", "mismatches"]


def mismatches(card: ModelCard, plan: Plan, service: Service) -> list[str]:
    """One phrase for each feature of the model that the service lacks, or gives otherwise.

    A card that says nothing of types or definitions, because it is older than they are, is compared
    by names alone.
    """
    types = feature_types(plan, service)
    meanings = feature_meanings(plan, service)
    found = []
    trained = dict(zip(card.features, card.feature_types, strict=False))
    for name in card.features:
        if name not in types:
            found.append(f"{name} is missing")
        elif trained.get(name, types[name]) != types[name]:
            found.append(f"{name} was {trained[name]} and is {types[name]}")
        elif card.definitions.get(name, meanings[name]) != meanings[name]:
            found.append(f"{name} is defined otherwise")
    return found


def check_features(card: ModelCard, plan: Plan, service: Service) -> None:
    """Raises ConfigurationError that names every feature which does not match."""
    wrong = mismatches(card, plan, service)
    if wrong:
        raise ConfigurationError(
            f"{card.model} version {card.version} does not match FeatureService {service.name!r}: "
            f"{'; '.join(wrong)}. Train it again (`streamsvc train {service.name}`), or apply the "
            "definitions that it was trained with"
        )


def check_routable(card: ModelCard, service: str) -> None:
    """Raises ConfigurationError for a model whose answers do not fit a prediction's one score."""
    if card.task == "multiclass":
        raise ConfigurationError(
            f"{card.model} version {card.version} tells {len(card.classes)} classes apart, and a "
            f"prediction of {service!r} has one score: give the route a model for each class that "
            "matters, one against the rest"
        )
