"""The definition of f(k, t), evaluated over the raw events. Shares no code with the engine.

Sums are exact fractions, so that the oracle has no rounding of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

NEVER = 2**63 - 1
FOR_EVER = 2**59
"""No clock gets here."""


@dataclass(frozen=True)
class Event:
    key: bytes
    time: int
    partition: int
    offset: int
    values: dict[str, Any]


def exit_of(time: int, window: int, hop: int) -> int:
    """First instant t with floor((t - window) / hop) * hop > time, found by looking."""
    t = time + window
    while (t - window) // hop * hop <= time:
        # The left edge moves once per hop: go there at once.
        t = ((t - window) // hop + 1) * hop + window
    return t


def value_of(aggregate: Any, events: Sequence[Event], t: int) -> Any:
    """The value of one feature; None is null."""
    left = (t - aggregate.window_ms) // aggregate.hop_ms * aggregate.hop_ms
    inside = [e for e in events if left <= e.time <= t]
    inside.sort(key=lambda e: (e.time, e.partition, e.offset))
    values = [e.values[aggregate.column] for e in inside]
    if aggregate.function == "latest":
        return values[-1] if values and values[-1] == values[-1] else None
    values = [v for v in values if v is not None and v == v]
    if aggregate.function == "count":
        return len(values)
    if aggregate.function == "count_distinct":
        return len(set(values))
    if not values:
        return None
    if aggregate.function in ("first", "last"):
        return values[0 if aggregate.function == "first" else -1]
    if aggregate.function in ("min", "max"):
        return (min if aggregate.function == "min" else max)(values)
    if aggregate.function[0] == "p":
        rank = int(aggregate.function[1:]) * (len(values) - 1) // 100
        return float(sorted(values)[rank])
    exact = [Fraction(v) for v in values]
    total = sum(exact, Fraction(0))
    if aggregate.function == "sum":
        return float(total) if isinstance(values[0], float) else int(total)
    mean = total / len(values)
    if aggregate.function == "mean":
        return float(mean)
    if len(values) < 2:
        return None
    variance = sum(((v - mean) ** 2 for v in exact), Fraction(0)) / (len(values) - 1)
    return float(variance) if aggregate.function == "var" else math.sqrt(variance)


def scale_of(aggregate: Any, events: Sequence[Event]) -> float:
    """What an error of one rounding is relative to."""
    values = [e.values[aggregate.column] for e in events]
    values = [abs(float(v)) for v in values if v is not None and not isinstance(v, str) and v == v]
    if not values:
        return 0.0
    if aggregate.function == "sum":
        return sum(values)
    return max(values) ** 2 if aggregate.function == "var" else max(values)


def same(aggregate: Any, got: Any, want: Any, events: Sequence[Event]) -> bool:
    if got is None or want is None:
        return got is None and want is None
    if type(got) is not type(want):
        return False
    if aggregate.function[0] == "p":
        return bool(abs(got - want) <= abs(want) / 129 * (1 + 1e-9))
    exact = ("count", "count_distinct", "latest", "min", "max", "first", "last")
    if aggregate.function in exact or isinstance(want, int):
        return bool(got == want)
    slack = 1e-9 * abs(want) + 1e-13 * scale_of(aggregate, events)
    if aggregate.function == "std":
        # The root of a variance that should be nothing.
        slack += 1e-7 * scale_of(aggregate, events) if want == 0 else 0
        slack += 1e-13 * scale_of(aggregate, events) ** 2 / want if want else 0
    return bool(abs(got - want) <= slack)


@dataclass
class Oracle:
    """All events so far, and the store that rows are written to."""

    aggregates: Sequence[Any]
    events: list[Event] = field(default_factory=list)
    clock: int = -(2**62)

    def add(self, events: Sequence[Event]) -> int:
        """Add events; returns how many were outside every window at their clock."""
        expired = 0
        for e in events:
            self.clock = max(self.clock, e.time)
            left = [exit_of(e.time, a.window_ms, a.hop_ms) for a in self.aggregates]
            expired += max(left) <= self.clock
            self.events.append(e)
        return expired

    def of(self, key: bytes) -> list[Event]:
        return [e for e in self.events if e.key == key]

    def row(self, key: bytes, t: int) -> dict[str, Any]:
        events = self.of(key)
        return {a.feature: value_of(a, events, t) for a in self.aggregates}

    def exits(self, key: bytes) -> list[int]:
        edges = {(a.window_ms, a.hop_ms) for a in self.aggregates}
        return sorted({exit_of(e.time, w, h) for e in self.of(key) for w, h in edges})

    def valid_until(self, key: bytes, t: int) -> int:
        exits = [x for x in self.exits(key) if t < x < FOR_EVER]
        return min(exits, default=NEVER)

    def changed_at(self, key: bytes, t: int) -> int:
        """The latest instant <= t at which an event came in or went out."""
        instants = [e.time for e in self.of(key)] + self.exits(key)
        return max(x for x in instants if x <= t)

    def differences(self, key: bytes, got: dict[str, Any], t: int) -> list[str]:
        events = self.of(key)
        want = self.row(key, t)
        return [
            f"{a.feature}({key!r}, {t}): {got[a.feature]!r} instead of {want[a.feature]!r}"
            for a in self.aggregates
            if not same(a, got[a.feature], want[a.feature], events)
        ]
