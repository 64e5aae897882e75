"""What a rollout is decided by: how traffic grows, and the gates that it has to pass.

A policy is a small TOML file, `--set` options of `streamsvc rollout start`, or nothing: every field
has a default. It is written into the revision that starts the rollout, so all controllers decide by
the same one, and history knows it.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from streamsvc.errors import ConfigurationError
from streamsvc.models.quality import BINARY, Metric

__all__ = ["Policy", "fields_of", "policy_of", "read_policy"]


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares are between 0 and 1, weights per cent of the traffic."""

    interval_s: float = 60.0
    """Seconds between two checks that may give the candidate more traffic."""
    step_weight: float = 10.0
    """Per cent that a check which holds adds to the candidate's traffic."""
    max_weight: float = 50.0
    """Per cent from which on the next check that holds promotes."""
    allowed_failures: int = 5
    """The failed checks with which the rollout ends: Flagger's `threshold`."""
    shadow_checks: int = 1
    """Checks that have to hold while the candidate is only shadowed; 0 begins with a canary."""
    min_requests: int = 100
    """Requests that the candidate must have had in an interval for it to be judged."""
    error_share: float = 0.01
    """Most calls of the model that may fail, beyond the share of the champion's that do."""
    fallback_share: float = 0.01
    """Most answers that a fallback may have made, beyond the champion's share."""
    p99_ms: float = 100.0
    """Most milliseconds that 99 per cent of the requests may spend in the model..."""
    p99_ratio: float = 1.5
    """... or so many times what they spend in the champion, if that is more."""
    score_psi: float | None = 0.25
    """Most that the scores may be spread otherwise than the champion's of the same traffic, as a
    population stability index; null where they are meant to be."""
    metrics: tuple[Metric, ...] = ("brier", "auc")
    """By which quality is compared, once labels arrive; none where it shall not be."""
    error_limit: float | None = None
    """The error of a regression from which on it counts as no worse: needed by its metrics."""
    margin: float | None = None
    """Promote only once every metric shows that the candidate is not worse than the champion by
    more than this, in units of the metric. null: a candidate that is not shown to be worse may be
    promoted before there are labels."""
    risk: float = 0.05
    """Probability, over the whole rollout, that a bound of the quality gate is ever wrong."""

    def __post_init__(self) -> None:
        """Raises ValueError, which msgspec and `policy_of` pass on as theirs."""
        for name in ("interval_s", "step_weight", "max_weight", "p99_ms", "p99_ratio", "risk"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be more than 0")
        for name in ("allowed_failures", "min_requests"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        for name in ("error_share", "fallback_share", "risk"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be a share from 0 up to 1")
        for name in ("shadow_checks", "score_psi", "margin"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative")
        if self.max_weight > 100:
            raise ValueError("max_weight is per cent of the traffic, 100 at most")
        errors = [name for name in self.metrics if name not in BINARY]
        if errors and not (self.error_limit or 0) > 0:
            raise ValueError(f"metrics {', '.join(errors)} need error_limit, more than 0")
        if errors and len(errors) < len(self.metrics):
            raise ValueError(
                f"metrics {', '.join(errors)} are for numbers, the others for labels that are 0 or "
                "1; choose one kind"
            )


def read_policy(path: Path | None, options: Mapping[str, str]) -> Policy:
    """A policy from a TOML file, if one is named, and options that win over it.

    Raises ConfigurationError that names the file or the option, and what is wrong.
    """
    values: dict[str, Any] = {}
    if path is not None:
        try:
            values = tomllib.loads(path.read_text())
        except FileNotFoundError as error:
            raise ConfigurationError(f"There is no policy file {path}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigurationError(f"The policy {path} is not valid TOML: {error}") from error
    for name, text in options.items():
        try:
            values[name] = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            # What is no TOML value is a word; TOML has none for nothing.
            words = [word.strip() for word in text.split(",") if word.strip()]
            values[name] = None if text in {"none", "null"} else words
    return policy_of(values, "" if path is None else f" {path}")


def fields_of(policy: Policy) -> dict[str, Any]:
    """Its fields as a revision carries them: what JSON gives back, lists for tuples."""
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(policy))
    return found


def policy_of(values: Mapping[str, Any], where: str = "") -> Policy:
    """A policy from its fields. Raises ConfigurationError that says which one is wrong."""
    fields = Policy.__struct_fields__
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(fields)}."
            raise ConfigurationError(f"The policy{where} has no field {name!r}; {hint}")
    try:
        return msgspec.convert(dict(values), Policy)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigurationError(f"The policy{where} is not right: {error}") from error
