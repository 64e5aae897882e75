"""How requests become predictions: a FeatureService says so in its tags.

>>> ScoringRoute(requests="payments", model="risk", threshold=0.8).tags()
{'streamsvc.requests': 'payments', 'streamsvc.model': 'risk', 'streamsvc.threshold': '0.8'}

Importing this costs nothing, because every Feast repo imports it.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from streamsvc.definitions.plan import Route

__all__ = ["TAG_PREFIX", "ScoringRoute", "parse_route"]

TAG_PREFIX = "streamsvc."
_KEYS_PREFIX = "keys."


@dataclass(frozen=True, slots=True)
class ScoringRoute:
    """The scoring side of one FeatureService; hand `tags()` to `FeatureService(tags=…)`."""

    requests: str
    """Topic of the requests; a KafkaSource of the repo describes it. It may be an event topic."""
    model: str
    """Name of the model in the model repository."""
    predictions: str | None = None
    """Topic of the predictions; `predictions.<service>` if None."""
    deadline_ms: int = 1_000
    """Milliseconds after which a request is answered by a fallback."""
    freshness_wait_ms: int = 10
    """Most milliseconds a request waits for its own event to be in the features."""
    default: float = 0.0
    """Score when no model can answer."""
    default_class: str | None = None
    """What is answered then where the model tells classes apart."""
    threshold: float = 0.5
    """The decision is true from this score on."""
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    """Whether a prediction may be repeated after a crash, with the same prediction_id; or comes in
    one transaction with the offset of its request, and so later, to readers of committed records.
    """
    start: Literal["earliest", "latest"] = "earliest"
    """Where a service that has answered nothing yet begins: with the oldest request that its topic
    holds, or with whatever comes after its first worker has started."""
    cache_mb: int = 0
    """Megabytes in which each worker keeps scores of vectors that it has seen, for every model
    version that answers; 0 for none. It pays where vectors repeat, which streamed ones hardly do.
    """
    shared_cache_s: int = 0
    """Seconds for which scores are kept in the online store, too, for all workers and for a worker
    that is started again; 0 for not at all."""
    feature_cache_mb: int = 0
    """Megabytes in which each worker keeps rows of each batch view that it has read, until Feast
    writes rows of that view; 0 for none. Rows of windowed views are read every time."""
    feature_cache_ms: int = 60_000
    """Most milliseconds that such a row is kept."""
    keys: Mapping[str, str] = field(default_factory=dict)
    """Join key -> request field, where the names differ."""
    labels: str | None = None
    """Topic that says later what really happened; a KafkaSource of the repo describes it."""
    label_field: str | None = None
    """Field of it that is the label: a boolean, 0 or 1, or the number that the model estimates."""
    label_from: float | None = None
    """Value from which on a number is the positive class; None takes the field as it is."""
    label_id: str | None = None
    """Field with the prediction_id that a label is about. None: it is about the last request of the
    same entity at or before its event time, and has the join keys, named as in requests."""
    label_window_ms: int = 86_400_000
    """Most milliseconds from a request's time to its label's; what comes later counts no more."""

    def tags(self) -> dict[str, str]:
        """Feast tags that say the same; values that are the default are left out."""
        found: dict[str, str] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name == "keys":
                found.update({f"{TAG_PREFIX}{_KEYS_PREFIX}{k}": v for k, v in value.items()})
            elif value != item.default:
                found[TAG_PREFIX + item.name] = str(value)
        return found


def parse_route(service: str, tags: Mapping[str, str]) -> tuple[Route | None, list[str]]:
    """The route in a FeatureService's tags, and every mistake in them as one sentence each.

    The route is None where the tags hold none, or hold a mistake.
    """
    from streamsvc.definitions.plan import Route

    given = {k.removeprefix(TAG_PREFIX): v for k, v in tags.items() if k.startswith(TAG_PREFIX)}
    if not given:
        return None, []
    values: dict[str, Any] = {"keys": {}, "predictions": f"predictions.{service}"}
    mistakes = []
    for key, text in given.items():
        if key.startswith(_KEYS_PREFIX):
            values["keys"][key.removeprefix(_KEYS_PREFIX)] = text
        elif key not in _PARSERS:
            mistakes.append(_unknown(service, key))
        else:
            try:
                values[key] = _PARSERS[key](text)
            except ValueError as error:
                mistakes.append(
                    f"FeatureService {service!r}: tag {TAG_PREFIX + key!r} is {text!r}; {error}."
                )
    mistakes += _label_mistakes(service, given)
    mistakes += [
        f"FeatureService {service!r}: tag {TAG_PREFIX + key!r} is missing; "
        f"ScoringRoute(requests=…, model=…).tags() writes it."
        for key in ("requests", "model")
        if key not in given
    ]
    return (None, mistakes) if mistakes else (Route(**values), [])


def _label_mistakes(service: str, given: Mapping[str, str]) -> list[str]:
    """Whether topic and field of the labels stand there together."""
    asked = sorted(key for key in given if key.startswith("label"))
    missing = [key for key in ("labels", "label_field") if asked and key not in given]
    return [
        f"FeatureService {service!r}: tag {TAG_PREFIX + key!r} is missing beside "
        f"{TAG_PREFIX + asked[0]!r}; ScoringRoute(labels='topic', label_field='field') names both."
        for key in missing
    ]


def _unknown(service: str, key: str) -> str:
    near = difflib.get_close_matches(key, _PARSERS, n=1)
    hint = f"did you mean {TAG_PREFIX + near[0]!r}?" if near else f"known are {_known()}."
    return f"FeatureService {service!r}: unknown tag {TAG_PREFIX + key!r}; {hint}"


def _known() -> str:
    return ", ".join([*(TAG_PREFIX + key for key in _PARSERS), f"{TAG_PREFIX}{_KEYS_PREFIX}*"])


def _name(text: str) -> str:
    if not text.strip():
        raise ValueError("give a name")
    return text


def _milliseconds(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("give whole milliseconds")
    return int(text)


def _seconds(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("give whole seconds")
    return int(text)


def _megabytes(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("give whole megabytes")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise ValueError("give a number") from None
    if not abs(value) < float("inf"):
        raise ValueError("give a finite number")
    return value


def _delivery(text: str) -> str:
    if text not in {"at_least_once", "exactly_once"}:
        raise ValueError("give 'at_least_once' or 'exactly_once'")
    return text


def _start(text: str) -> str:
    if text not in {"earliest", "latest"}:
        raise ValueError("give 'earliest' or 'latest'")
    return text


_PARSERS: dict[str, Callable[[str], Any]] = {
    "requests": _name,
    "model": _name,
    "predictions": _name,
    "deadline_ms": _milliseconds,
    "freshness_wait_ms": _milliseconds,
    "default": _number,
    "default_class": _name,
    "threshold": _number,
    "delivery": _delivery,
    "labels": _name,
    "label_field": _name,
    "label_from": _number,
    "label_id": _name,
    "label_window_ms": _milliseconds,
    "start": _start,
    "cache_mb": _megabytes,
    "shared_cache_s": _seconds,
    "feature_cache_mb": _megabytes,
    "feature_cache_ms": _milliseconds,
}
