"""What one variant did with the traffic of a span of time, as the gates need it.

What failed or was slow, did so as a *call*: one batch of requests that a worker sent to the model
at once. So evidence counts calls, and what requests saw counts requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import F64, I64, Bools
from streamsvc.models.histogram import Histogram
from streamsvc.models.metrics import weighted_quantile

__all__ = ["Calls"]


@dataclass(frozen=True, slots=True, eq=False)
class Calls:
    """Calls have shape (calls,), in the order of the served log."""

    rows: I64
    """Requests in each call."""
    ms: F64
    """Milliseconds that each call took, whatever came of it."""
    failed: Bools
    """Whether the model raised, answered nonsense or not in time."""
    fallbacks: int
    """Requests that something else than the model server answered."""
    scores: Histogram
    """Of the model's own answers."""

    @classmethod
    def nothing(cls, scores: Histogram) -> Calls:
        """No traffic; `scores` says in which bins its scores are counted."""
        none = np.zeros(0, np.int64)
        empty = Histogram(scores.edges, [0] * len(scores.counts))
        return cls(none, none.astype(np.float64), none.astype(np.bool_), 0, empty)

    @property
    def requests(self) -> int:
        """Requests in all calls."""
        return int(self.rows.sum())

    @property
    def failed_requests(self) -> int:
        """Requests in calls that failed."""
        return int(self.rows[self.failed].sum())

    @property
    def error_share(self) -> float:
        """Of the requests; 0 of none."""
        return self.failed_requests / self.requests if self.requests else 0.0

    @property
    def fallback_share(self) -> float:
        """Of the requests; 0 of none."""
        return self.fallbacks / self.requests if self.requests else 0.0

    @property
    def p99_ms(self) -> float:
        """What 99 per cent of the requests did not spend more than in the model; NaN of none."""
        return weighted_quantile(self.ms, self.rows, 0.99)

    def slow_calls(self, limit_ms: float) -> int:
        """Calls that took longer."""
        return int(np.count_nonzero(self.ms > limit_ms))

    @classmethod
    def sum_of(cls, parts: Iterable[Calls], scores: Histogram) -> Calls:
        """All of them together; `scores` has their bins."""
        found = [cls.nothing(scores), *parts]
        counts: NDArray[np.int64] = np.sum([part.scores.counts for part in found], axis=0)
        return cls(
            np.concatenate([part.rows for part in found]),
            np.concatenate([part.ms for part in found]),
            np.concatenate([part.failed for part in found]),
            sum(part.fallbacks for part in found),
            Histogram(scores.edges, counts.tolist(), sum(part.scores.missing for part in found)),
        )
