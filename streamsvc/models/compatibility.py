"""Whether a model's features are those that its FeatureService gives it now."""

from __future__ import annotations

from collections.abc import Sequence

from streamsvc.definitions.meaning import feature_meanings, feature_types
from streamsvc.definitions.plan import Plan, Route, Service
from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import ModelCard

__all__ = ["check_alike", "check_features", "check_judgeable", "check_routable", "mismatches"]


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


def check_routable(card: ModelCard, route: Route, service: str) -> None:
    """Raises ConfigurationError for a route whose default is no answer that the model could give.

    `default_class` belongs to models that tell classes apart, and they need it.
    """
    what, given = f"{card.model} version {card.version}", route.default_class
    if card.task == "multiclass" and given not in card.classes:
        has = "has no default_class" if given is None else f"has default_class {given!r}"
        raise ConfigurationError(
            f"{what} tells classes apart, and the route of {service!r} {has}: set "
            f"ScoringRoute(default_class=…), the answer where no model can give one, to one of "
            f"{', '.join(card.classes)}"
        )
    if card.task != "multiclass" and given is not None:
        raise ConfigurationError(
            f"The route of {service!r} has default_class {given!r}, and {what} has one score and "
            "no classes: set ScoringRoute(default=…) instead"
        )


def check_alike(champion: ModelCard, candidate: ModelCard) -> None:
    """Raises ConfigurationError for two models whose answers mean different things."""
    if champion.classes != candidate.classes:
        told = [", ".join(card.classes) or "none" for card in (champion, candidate)]
        raise ConfigurationError(
            f"{candidate.model} version {candidate.version} tells the classes {told[1]} apart, and "
            f"version {champion.version}, beside which it would run, {told[0]}: give it a model "
            "name and a route of its own"
        )


def check_judgeable(card: ModelCard, route: Route, metrics: Sequence[str]) -> None:
    """Raises ConfigurationError where a rollout would be judged by what its labels cannot say."""
    if card.task == "multiclass" and route.labels is not None and metrics:
        raise ConfigurationError(
            f"{card.model} tells {len(card.classes)} classes apart, and quality is compared for a "
            "single score: start the rollout with --set metrics=[]; errors, latency, fallbacks and "
            "the PSI of its top scores decide"
        )
