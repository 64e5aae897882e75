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
    threshold: float = 0.5
    """The decision is true from this score on."""
    delivery: Literal["at_least_once", "exactly_once"] = "at_least_once"
    """Whether a prediction may be repeated after a crash, with the same prediction_id; or comes in
    one transaction with the offset of its request, and so later, to readers of committed records.
    """
    keys: Mapping[str, str] = field(default_factory=dict)
    """Join key -> request field, where the names differ."""

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
    mistakes += [
        f"FeatureService {service!r}: tag {TAG_PREFIX + key!r} is missing; "
        f"ScoringRoute(requests=…, model=…).tags() writes it."
        for key in ("requests", "model")
        if key not in given
    ]
    return (None, mistakes) if mistakes else (Route(**values), [])


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


_PARSERS: dict[str, Callable[[str], Any]] = {
    "requests": _name,
    "model": _name,
    "predictions": _name,
    "deadline_ms": _milliseconds,
    "freshness_wait_ms": _milliseconds,
    "default": _number,
    "threshold": _number,
    "delivery": _delivery,
}
