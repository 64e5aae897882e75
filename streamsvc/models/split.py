"""Splits in time: a model is judged on what came after everything it saw."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64
from streamsvc.errors import ConfigurationError

__all__ = ["Split", "split_by_time"]

TEST_SHARE = 0.1
VALIDATION_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class Split:
    """Positions of rows, each in time order. No instant is in two parts."""

    train: I64
    validation: I64
    test: I64


def split_by_time(event_ms: I64, test_from_ms: int | None = None) -> Split:
    """Train, validation and test parts, earliest first.

    The test part starts at `test_from_ms`, or holds the last 10 % of the rows; the validation part
    is the last 15 % of what comes before it. Rows of the same instant stay together. Raises
    ConfigurationError if a part would be empty.
    """
    order = np.argsort(event_ms, kind="stable")
    times = event_ms[order]
    if test_from_ms is None:
        test = _start_of_instant(times, int(len(times) * (1 - TEST_SHARE)))
    else:
        test = int(np.searchsorted(times, test_from_ms))
    validation = _start_of_instant(times[:test], int(test * (1 - VALIDATION_SHARE)))
    found = Split(order[:validation], order[validation:test], order[test:])
    for name in ("train", "validation", "test"):
        if len(getattr(found, name)) == 0:
            raise ConfigurationError(
                f"No labelled rows are left for the {name} part ({len(times)} rows in all): "
                "give more labels, or another date"
            )
    return found


def _start_of_instant(times: I64, position: int) -> int:
    if len(times) == 0:
        return 0
    return int(np.searchsorted(times, times[min(position, len(times) - 1)]))
