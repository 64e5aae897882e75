"""What the features must be, by NumPy over the raw payments; shares no code with any engine.

Engines do not agree on where a window of ten minutes that hops by one begins at an instant t. Each
is held to its own meaning:

    grid    the minute that t - 10 min lies in        hand-written windows, and streamsvc
    hop     nine minutes before the minute of t       the oldest hopping window that is still open
    slide   t - 10 min                                RANGE of SQL; sliding windows
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from job import FUNCTIONS, Payments
from numpy.typing import NDArray

__all__ = ["LEFT", "check_records", "check_store", "features"]

I64 = NDArray[np.int64]
F64 = NDArray[np.float64]

MINUTE = 60_000
WINDOW = 10 * MINUTE
LEFT: Mapping[str, Callable[[I64], I64]] = {
    "grid": lambda t: (t - WINDOW) // MINUTE * MINUTE,
    "hop": lambda t: t // MINUTE * MINUTE - 9 * MINUTE,
    "slide": lambda t: t - WINDOW,
}


class _ByUser:
    """Payments sorted by (user, time), so that a window is a range of rows."""

    def __init__(self, payments: Payments) -> None:
        order = np.lexsort((payments.times, payments.users))
        self.base = int(payments.times.min(initial=0)) - 100 * WINDOW
        self.code = self._code(payments.users[order], payments.times[order])
        # One more, because `reduceat` takes no index past the end.
        self.amounts = np.append(payments.amounts[order], 0.0)

    def _code(self, users: I64, times: I64) -> I64:
        """Sorted as (user, time) are; times may lie 2^40 ms, 34 years, after the first."""
        return (users << 40) + (np.maximum(times, self.base) - self.base)

    def windows(self, users: I64, left: I64, right: I64) -> dict[str, F64]:
        """The features of each user over left <= time <= right; NaN where there is nothing."""
        low = np.searchsorted(self.code, self._code(users, left))
        high = np.searchsorted(self.code, self._code(users, right), side="right")
        count = high - low
        ranges = np.column_stack([low, high]).ravel()
        if not len(ranges):
            return {name: np.empty(0) for name in FUNCTIONS}
        found = {"count": count.astype(np.float64)}
        for name, fold in (("sum", np.add), ("min", np.minimum), ("max", np.maximum)):
            folded = fold.reduceat(self.amounts, ranges)[::2]
            found[name] = np.where(count > 0, folded, np.nan)
        found["mean"] = found["sum"] / np.maximum(count, 1)
        return found


def features(payments: Payments, users: I64, at: I64, left: I64) -> dict[str, F64]:
    """The features of each user at an instant, over a window from `left` on; all shape (n,)."""
    return _ByUser(payments).windows(users, left, at)


def check_store(
    payments: Payments,
    users: I64,
    at: I64,
    got: Mapping[str, F64],
    meaning: str = "grid",
    window_ms: int = WINDOW,
    hop_ms: int = MINUTE,
) -> int:
    """Compare what a store holds for each user as of an instant; how many values were right.

    Raises AssertionError that names the first user whose values differ.
    """
    left = (at - window_ms) // hop_ms * hop_ms if meaning == "grid" else LEFT[meaning](at)
    want = features(payments, users, at, left)
    _compare(users, at, got, want)
    return len(users) * len(want)


def check_records(
    payments: Payments, users: I64, at: I64, got: Mapping[str, F64], meaning: str
) -> int:
    """Compare updates, one per payment, each as of the payment's instant; how many were right.

    Of every user in `users` there must be an update for each of its payments up to the last one
    that was seen, once and no other.
    """
    seen = np.unique(users)
    last = np.zeros(payments.keys, np.int64)
    np.maximum.at(last, users, at)
    among = np.isin(payments.users, seen) & (payments.times <= last[payments.users])
    wanted = np.sort((payments.users[among] << 44) + payments.times[among] % (1 << 44))
    updates = np.sort((users << 44) + at % (1 << 44))
    assert np.array_equal(wanted, updates), (
        f"{len(updates):,} updates of {len(wanted):,} payments of {len(seen):,} users"
    )
    _compare(users, at, got, features(payments, users, at, LEFT[meaning](at)))
    return len(users)


def _compare(users: I64, at: I64, got: Mapping[str, F64], want: Mapping[str, F64]) -> None:
    for name, values in want.items():
        same = np.isclose(got[name], values, rtol=1e-9, atol=1e-9, equal_nan=True)
        if not same.all():
            i = int(np.flatnonzero(~same)[0])
            raise AssertionError(
                f"{(~same).sum():,} of {len(same):,} values of {name} differ; user u{users[i]} at "
                f"{at[i]}: {got[name][i]!r}, not {values[i]!r}"
            )
