"""The view that benchmarks compute: 15 features of amounts in three windows, and what they must be.

A window of ten minutes by the minute, one of an hour by five minutes, one of a day by the hour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from streamsvc.definitions.plan import Aggregate, JoinKey, Source, View

__all__ = ["assert_right", "spend"]

WINDOWS = ((600_000, 60_000), (3_600_000, 300_000), (86_400_000, 3_600_000))
FUNCTIONS: tuple[Any, ...] = ("count", "sum", "mean", "min", "max")


def spend(source: Source, key: str) -> View:
    """By a join key of text."""
    made = [
        Aggregate(f"{function}_{window // 1000}s", "amount", function, window, hop)
        for window, hop in WINDOWS
        for function in FUNCTIONS
    ]
    return View(
        name="spend",
        source=source,
        join_keys=(JoinKey(key, "string"),),
        aggregates=tuple(sorted(made, key=lambda a: a.feature)),
        feature_types={a.feature: "Int64" if a.function == "count" else "Float64" for a in made},
        udf=None,
        ttl_ms=None,
        definition_hash="benchmark",
    )


def assert_right(
    aggregates: Sequence[Aggregate], got: Mapping[str, Any], amount: Any, at: Any, instant: int
) -> None:
    """Compare an entity's features at an instant with NumPy over its raw events; `amount` and `at`
    have shape (events,)."""
    for a in aggregates:
        left = (instant - a.window_ms) // a.hop_ms * a.hop_ms
        inside = amount[(at >= left) & (at <= instant)]
        value = got[a.feature]
        if a.function == "count":
            assert value == len(inside), (a, value, len(inside))
        elif not len(inside):
            assert value is None, (a, value)
        else:
            want = getattr(np, a.function)(inside)
            assert value is not None, a
            assert np.isclose(value, want, rtol=1e-9), (a, value, want)
