"""Which of two models is better, by what really happened.

Every labelled request gives each model that scored it a *gain* between 0 and 1, and the gains of
the two are compared by confidence sequences, so that looking at every label does no harm. A shadow
and the champion score the same requests: the differences are one sequence, which is far the
sharper. A canary answers other requests than the champion: each has a sequence of its own.

    brier            1 - (label - score)²
    log_loss         1 + ln of the probability given to what happened, within [0.01, 0.99], scaled
    auc              the share of the pairs of a positive and a negative that are in order
    calibration      1 - |mean score - mean label|, not a mean itself: made of the sequence of
                     score - label
    absolute_error   1 - |label - score| / error_limit, 0 from the limit on
    squared_error    the same of the squares

The AUC is no mean over requests, but over pairs; pairs that share a request depend on one another.
So every positive is compared with negatives that no other positive meets (or the other way round,
where negatives are fewer), as many to each as there are, and these shares are averaged: the same
expectation, and each value is of requests that came after those of the one before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from streamsvc.columns import F64
from streamsvc.models.confidence import MeanSequence

__all__ = ["BINARY", "Comparison", "Metric", "Quality"]

Metric: TypeAlias = Literal[
    "brier", "log_loss", "auc", "calibration", "absolute_error", "squared_error"
]
BINARY: tuple[Metric, ...] = ("brier", "log_loss", "auc", "calibration")
"""Metrics of a label that is 0 or 1."""

_LEAST_PROBABILITY = 0.01
_MOST_WAITING = 100_000
"""Positives or negatives that wait for the other; older ones than these are forgotten."""
_CHAMPION, _CANDIDATE = 0, 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """What is known of the two by one metric. Gains: more is better."""

    metric: Metric
    paired: bool
    """Whether both scored the same requests."""
    labels: tuple[int, int]
    """Labelled requests of the champion and of the candidate."""
    champion: float
    candidate: float
    """The metric as people know it: a loss, an AUC, an absolute bias, an error."""
    lower: float
    upper: float
    """Bounds of how much better the candidate is, in units of the metric; negative is worse."""


class Quality:
    """Gains of a champion and a candidate, in constant memory."""

    def __init__(self, metrics: Sequence[Metric], error_limit: float = 1.0) -> None:
        """`error_limit` is the error of a regression from which on it counts as no worse."""
        self._metrics = tuple(metrics)
        self._error_limit = error_limit
        self._pairs = {metric: _Both() for metric in metrics}
        self._apart = {metric: _Apart() for metric in metrics}
        self._pair_queue = _Queue(2)
        self._queues = (_Queue(1), _Queue(1))

    def add_paired(self, labels: F64, champion: F64, candidate: F64) -> None:
        """Requests that both have scored, in the order in which their labels became known."""
        scores = np.stack([champion, candidate])
        for metric in self._metrics:
            if metric == "auc":
                gains, n = self._pair_queue.ordered(labels, scores)
            else:
                gains, n = self._gains(metric, labels, scores), len(labels)
            self._pairs[metric].add(gains, n)

    def add_apart(self, labels: F64, scores: F64, *, candidate: bool) -> None:
        """Requests that only one of them has scored."""
        which = _CANDIDATE if candidate else _CHAMPION
        for metric in self._metrics:
            if metric == "auc":
                gains, n = self._queues[which].ordered(labels, scores[None])
            else:
                gains, n = self._gains(metric, labels, scores[None]), len(labels)
            self._apart[metric].add(which, gains[0], n)

    def comparisons(self, alpha: float) -> list[Comparison]:
        """All that can be said by now. That any one bound of them is ever wrong on its side has a
        probability of at most `alpha`."""
        each = alpha / (2 * max(1, len(self._metrics)))
        found = []
        for metric in self._metrics:
            unit = self._unit(metric)
            for both in (self._pairs[metric], self._apart[metric]):
                if min(both.labels) and both.seen:
                    found.append(both.comparison(metric, unit, each))
        return found

    def _unit(self, metric: Metric) -> float:
        """A gain of 1 in units of the metric."""
        return {
            "log_loss": -float(np.log(_LEAST_PROBABILITY)),
            "absolute_error": self._error_limit,
            "squared_error": self._error_limit**2,
        }.get(metric, 1.0)

    def _gains(self, metric: Metric, labels: F64, scores: F64) -> F64:
        """[models, n] within [0, 1]."""
        error = scores - labels
        match metric:
            case "brier":
                return 1 - np.square(np.clip(error, -1, 1))
            case "log_loss":
                p = np.clip(scores, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
                return 1 - np.log(np.where(labels > 0, p, 1 - p)) / np.log(_LEAST_PROBABILITY)
            case "calibration":
                return (1 + np.clip(error, -1, 1)) / 2
            case "absolute_error":
                return 1 - np.minimum(np.abs(error) / self._error_limit, 1)
            case _:
                return 1 - np.square(np.minimum(np.abs(error) / self._error_limit, 1))


class _Both:
    """Gains of both on the same requests."""

    def __init__(self) -> None:
        self.each = (MeanSequence(), MeanSequence())
        self._difference = MeanSequence()
        self._n = 0

    @property
    def labels(self) -> tuple[int, int]:
        return self._n, self._n

    @property
    def seen(self) -> bool:
        return self._difference.n > 0

    def add(self, gains: F64, n: int) -> None:
        self._n += n
        for sequence, one in zip(self.each, gains, strict=True):
            sequence.add(one)
        self._difference.add((1 + gains[_CANDIDATE] - gains[_CHAMPION]) / 2)

    def comparison(self, metric: Metric, unit: float, alpha: float) -> Comparison:
        if metric == "calibration":
            return _apart(metric, unit, alpha, self.each, self.labels, paired=True)
        low, high = self._difference.interval(alpha)
        champion, candidate = (_shown(metric, s.mean, unit) for s in self.each)
        return Comparison(
            metric,
            True,
            self.labels,
            champion,
            candidate,
            unit * (2 * low - 1),
            unit * (2 * high - 1),
        )


class _Apart:
    """Gains of each on requests of its own."""

    def __init__(self) -> None:
        self.each = (MeanSequence(), MeanSequence())
        self._n = [0, 0]

    @property
    def labels(self) -> tuple[int, int]:
        return self._n[_CHAMPION], self._n[_CANDIDATE]

    @property
    def seen(self) -> bool:
        return all(sequence.n for sequence in self.each)

    def add(self, which: int, gains: F64, n: int) -> None:
        self._n[which] += n
        self.each[which].add(gains)

    def comparison(self, metric: Metric, unit: float, alpha: float) -> Comparison:
        return _apart(metric, unit, alpha, self.each, self.labels, paired=False)


def _apart(
    metric: Metric,
    unit: float,
    alpha: float,
    each: Sequence[MeanSequence],
    labels: tuple[int, int],
    *,
    paired: bool,
) -> Comparison:
    """From one interval of each, half of the risk to either."""
    if metric == "calibration":  # either bound of a bias's size is made of both of the bias
        intervals = [_of_bias(*sequence.interval(alpha / 4)) for sequence in each]
    else:
        intervals = [sequence.interval(alpha / 2) for sequence in each]
    (low_a, high_a), (low_b, high_b) = intervals
    champion, candidate = (_shown(metric, sequence.mean, unit) for sequence in each)
    return Comparison(
        metric,
        paired,
        labels,
        champion,
        candidate,
        unit * (low_b - high_a),
        unit * (high_b - low_a),
    )


def _of_bias(low: float, high: float) -> tuple[float, float]:
    """Bounds of 1 - |bias|, from those of (1 + bias) / 2."""
    low, high = 2 * low - 1, 2 * high - 1
    most = max(abs(low), abs(high))
    least = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
    return 1 - most, 1 - least


def _shown(metric: Metric, mean: float, unit: float) -> float:
    """A mean gain as the metric that people know."""
    if metric == "auc":
        return mean
    if metric == "calibration":
        return abs(2 * mean - 1)
    return unit * (1 - mean)


class _Queue:
    """Positives and negatives that have not met yet; scores of one or two models."""

    def __init__(self, models: int) -> None:
        nothing = np.zeros((models, 0))
        self._waiting = (nothing, nothing)
        """Negatives, positives."""

    def ordered(self, labels: F64, scores: F64) -> tuple[F64, int]:
        """[models, blocks]: of every block the share of its pairs that are in order, ties one half.

        And the number of labels, whether they have met or not.
        """
        positive = labels > 0
        negatives, positives = (
            np.concatenate([held, scores[:, side]], axis=1)
            for held, side in zip(self._waiting, (~positive, positive), strict=True)
        )
        fewer, more = sorted((negatives, positives), key=lambda side: side.shape[1])
        blocks = fewer.shape[1]
        size = more.shape[1] // blocks if blocks else 0
        met = more[:, : blocks * size].reshape(len(scores), blocks, size)
        sign = 1 if more is negatives else -1
        order = np.sign(fewer[:, :, None] - met) * sign
        rest = [fewer[:, :0], more[:, blocks * size :][:, -_MOST_WAITING:]]
        if more is negatives:
            rest.reverse()
        self._waiting = (rest[0], rest[1])
        gains = (1 + order).mean(axis=2) / 2 if blocks else np.zeros((len(scores), 0))
        return gains, len(labels)
