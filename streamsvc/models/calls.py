"""What one variant did with the traffic of a span of time, as the gates need it.

What failed or was slow, did so as a *call*: one batch of requests that a worker sent to the model
at once. So evidence counts calls, and what requests saw counts requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import F64, I64, Bools
from streamsvc.models.histogram import Histogram
from streamsvc.models.metrics import weighted_quantile

__all__ = ["Calls"]


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """n calls, in the order in which they were logged; arrays have shape (n,) but for `counts`."""

    edges: Sequence[float]
    """Cut points of the bins in which scores are counted, as in `Histogram`."""
    at_ms: I64
    """When a call was logged, in ms since 1970."""
    rows: I64
    """Requests in it."""
    ms: F64
    """Milliseconds that it took, whatever came of it."""
    failed: Bools
    """Whether the model raised, answered nonsense or not in time."""
    fallbacks: I64
    """Requests that something else than the model server answered."""
    counts: I64
    """(n, bins): the model's own answers."""

    @classmethod
    def nothing(cls, edges: Sequence[float]) -> Calls:
        """No call."""
        none = np.zeros(0, np.int64)
        counts = np.zeros((0, len(edges) + 1), np.int64)
        return cls(edges, none, none, none.astype(float), none.astype(bool), none, counts)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def requests(self) -> int:
        """Requests in all calls."""
        return int(self.rows.sum())

    @property
    def error_share(self) -> float:
        """Share of the requests whose call failed; 0 of none."""
        return float(self.rows[self.failed].sum() / self.requests) if self.requests else 0.0

    @property
    def fallback_share(self) -> float:
        """Share of the requests; 0 of none."""
        return float(self.fallbacks.sum() / self.requests) if self.requests else 0.0

    @property
    def p99_ms(self) -> float:
        """What 99 per cent of the requests did not spend more than in the model; NaN of none."""
        return weighted_quantile(self.ms, self.rows, 0.99)

    @property
    def scores(self) -> Histogram:
        """Of the model's own answers in all calls."""
        return Histogram(list(self.edges), self.counts.sum(axis=0).tolist())

    def since(self, ms: int) -> Calls:
        """Those that were logged from then on."""
        kept = self.at_ms >= ms
        if kept.all():
            return self
        return Calls(
            self.edges,
            self.at_ms[kept],
            self.rows[kept],
            self.ms[kept],
            self.failed[kept],
            self.fallbacks[kept],
            self.counts[kept],
        )

    def plus(self, later: Calls) -> Calls:
        """These and those, which count in the same bins. Of what is read again, one partition of
        the log comes after the other: so they are put in order."""
        order = np.argsort(np.concatenate([self.at_ms, later.at_ms]), kind="stable")
        return Calls(
            self.edges,
            np.concatenate([self.at_ms, later.at_ms])[order],
            np.concatenate([self.rows, later.rows])[order],
            np.concatenate([self.ms, later.ms])[order],
            np.concatenate([self.failed, later.failed])[order],
            np.concatenate([self.fallbacks, later.fallbacks])[order],
            np.concatenate([self.counts, later.counts])[order],
        )
