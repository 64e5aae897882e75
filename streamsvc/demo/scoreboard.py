"""What a replay has brought so far: requests, predictions and outcomes, joined as they come.

They arrive in no order: a prediction may be read before the request that it answers, and a label
hours of event time after both. Times are milliseconds of the wall clock.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from streamsvc.models.metrics import auc

__all__ = ["Answer", "Latencies", "Place", "Scoreboard", "Standing"]

Place: TypeAlias = tuple[int, int]
"""Partition and offset of a request."""

_ROLLING_LABELS = 2_000
_ROLLING_LATENCIES = 1_000


@dataclass(frozen=True, slots=True)
class Answer:
    """The first prediction for a request; later ones are repeats."""

    prediction_id: str
    score: float
    ahead_ms: int
    fallback: str | None
    received_ms: float


@dataclass(frozen=True, slots=True)
class Latencies:
    """Percentiles in milliseconds; NaN of nothing."""

    p50: float
    p99: float

    @classmethod
    def of(cls, values: Any) -> Latencies:
        """Of a sequence of milliseconds."""
        if not len(values):
            return cls(float("nan"), float("nan"))
        p50, p99 = np.percentile(np.fromiter(values, np.float64), [50, 99])
        return cls(float(p50), float(p99))


@dataclass(frozen=True, slots=True)
class Standing:
    """The scoreboard at one moment."""

    requests: int
    predictions: int
    """Requests that have a prediction."""
    duplicates: int
    fallbacks: int
    labelled: int
    """Predictions whose flight has arrived."""
    rolling_auc: float
    """Of the last 2,000 of those; NaN until both outcomes were seen."""
    latency_ms: Latencies
    """Of the last 1,000 predictions."""


class Scoreboard:
    """Safe to write from one thread and to read from another."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[Place, tuple[str, float]] = {}
        self._answers: dict[Place, Answer] = {}
        self._place_of: dict[str, Place] = {}
        self._predictions = 0
        self._fallbacks = 0
        self._labelled: deque[tuple[bool, float]] = deque(maxlen=_ROLLING_LABELS)
        self._labels = 0
        self._latencies: deque[float] = deque(maxlen=_ROLLING_LATENCIES)

    def request(self, place: Place, flight_id: str, sent_ms: float) -> None:
        """A request was read."""
        with self._lock:
            self._asked[place] = (flight_id, sent_ms)
            self._place_of[flight_id] = place
            answer = self._answers.get(place)
            if answer is not None:
                self._latencies.append(answer.received_ms - sent_ms)

    def prediction(self, record: Mapping[str, Any], received_ms: float) -> None:
        """A prediction record was read; of several for one request the first counts."""
        source = record["source"]
        place = (source["partition"], source["offset"])
        with self._lock:
            self._predictions += 1
            if place in self._answers:
                return
            self._fallbacks += record["fallback"] is not None
            self._answers[place] = Answer(
                record["prediction_id"],
                record["score"],
                record["ahead_ms"],
                record["fallback"],
                received_ms,
            )
            if place in self._asked:
                self._latencies.append(received_ms - self._asked[place][1])

    def outcome(self, flight_id: str, late: bool) -> None:
        """A flight arrived. Flights that nobody asked about are passed over."""
        with self._lock:
            place = self._place_of.get(flight_id)
            answer = None if place is None else self._answers.get(place)
            if answer is not None:
                self._labelled.append((late, answer.score))
                self._labels += 1

    def standing(self) -> Standing:
        """How it stands now."""
        with self._lock:
            labelled = np.array(self._labelled, np.float64).reshape(-1, 2)
            latencies = list(self._latencies)
            counts = {
                "requests": len(self._asked),
                "predictions": len(self._answers),
                "duplicates": self._predictions - len(self._answers),
                "fallbacks": self._fallbacks,
                "labelled": self._labels,
            }
        return Standing(
            **counts,
            rolling_auc=auc(labelled[:, 0], labelled[:, 1]),
            latency_ms=Latencies.of(latencies),
        )

    def answered(self) -> Iterator[tuple[str, float, Answer]]:
        """Flight, sending time and answer of every request that has one. Call it at the end."""
        for place, (flight_id, sent_ms) in self._asked.items():
            answer = self._answers.get(place)
            if answer is not None:
                yield flight_id, sent_ms, answer
