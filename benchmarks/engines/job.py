"""The one job that every engine does: payments in, features of a ten-minute window out.

A payment is `{"user":"u17","amount":12.34,"ts":1700000000000}`, keyed by its user, in the partition
that murmur2 of the key chooses, as Java's producer has it. Times are milliseconds and grow by one
from payment to payment, so that a million of them are 17 minutes. Per user a window of ten minutes
that hops by one: count, sum, mean, min and max of `amount`, up to date at every payment.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamsvc.columns import I64, strings
from streamsvc.entity_keys import murmur2

__all__ = ["FUNCTIONS", "KEYS", "PARTITIONS", "START_MS", "Payments", "generate"]

PARTITIONS = 4
KEYS = 100_000
START_MS = 1_700_000_040_000
"""Of the first payment: a whole minute, so that windows begin where minutes do."""
FUNCTIONS = ("count", "sum", "mean", "min", "max")


@dataclass(frozen=True)
class Payments:
    """Payments in order; every array has shape (n,)."""

    users: I64
    """u0 is 0."""
    cents: I64
    times: I64
    """Milliseconds; no user pays twice in one."""
    keys: int
    """How many users there are: all are below."""

    def __len__(self) -> int:
        return len(self.users)

    @property
    def amounts(self) -> NDArray[np.float64]:
        """As whoever parses the JSON gets them."""
        return self.cents / 100.0

    @cached_property
    def homes(self) -> I64:
        """The partition of every user, shape (keys,)."""
        return murmur2(strings(names(self.keys))) % PARTITIONS

    def first(self, n: int) -> Payments:
        """The first n."""
        return Payments(self.users[:n], self.cents[:n], self.times[:n], self.keys)

    def ends(self) -> list[int]:
        """How many of them lie in each partition."""
        found = np.bincount(self.homes[self.users], minlength=PARTITIONS)
        return [int(n) for n in found]

    def values(self, rows: I64 | slice = slice(None)) -> list[bytes]:
        """Their JSON, made column by column."""
        cents = self.cents[rows]
        fraction = pc.utf8_lpad(_text(cents % 100), 2, "0")
        text = pc.binary_join_element_wise(
            *('{"user":"u', _text(self.users[rows]), '","amount":', _text(cents // 100)),
            *(".", fraction, ',"ts":', _text(self.times[rows]), "}", ""),
        )
        return text.cast(pa.binary()).to_pylist()  # type: ignore[no-any-return]


def _text(numbers: I64) -> pa.Array:
    return pc.cast(pa.array(numbers), pa.string())


def names(keys: int) -> list[bytes]:
    """What the users are called in records, in order."""
    return [b"u%d" % i for i in range(keys)]


def generate(n: int, keys: int = KEYS, zipf: float = 0.0, seed: int = 0) -> Payments:
    """n payments. `zipf` is the exponent by which a user's share falls with its rank; 0 is
    uniform."""
    rng = np.random.default_rng(seed)
    if zipf:
        share = np.cumsum(np.arange(1, keys + 1, dtype=np.float64) ** -zipf)
        ranks = np.searchsorted(share, rng.random(n) * share[-1], side="right")
        users = rng.permutation(keys)[np.minimum(ranks, keys - 1)]
    else:
        users = rng.integers(0, keys, n)
    cents = np.maximum(1, (rng.gamma(2, 30, n) * 100).astype(np.int64))
    return Payments(users, cents, START_MS + np.arange(n), keys)
