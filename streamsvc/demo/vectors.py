"""Served vectors against those that history gives: bit for bit, as the float32 a model sees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from streamsvc.models.artifact import F32

__all__ = ["Comparison", "Difference", "compare_vectors", "differing"]


class Difference(msgspec.Struct, frozen=True):
    """One feature of one flight. A missing value is null."""

    flight_id: str
    request_time_ms: int
    feature: str
    served: float | None
    offline: float | None


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of comparing."""

    vectors: int
    identical: int
    differences: list[Difference]

    @property
    def identical_share(self) -> float:
        """Of all vectors; 0 of none, because nothing was shown then."""
        return self.identical / self.vectors if self.vectors else 0.0


def differing(served: F32, offline: F32) -> NDArray[np.bool_]:
    """Where two float32 arrays of one shape differ in any bit; a NaN equals every NaN."""
    both_missing = np.isnan(served) & np.isnan(offline)
    bits = np.ascontiguousarray(served).view(np.uint32) != np.ascontiguousarray(offline).view(
        np.uint32
    )
    return bits & ~both_missing


def compare_vectors(
    served: F32,
    offline: F32,
    features: Sequence[str],
    flight_ids: Sequence[str],
    request_time_ms: Sequence[int],
) -> Comparison:
    """Compare matrices of shape (n, features) whose rows are the same flights in the same order."""
    unequal = differing(served, offline)
    rows, columns = np.nonzero(unequal)
    differences = [
        Difference(
            flight_ids[row],
            int(request_time_ms[row]),
            features[column],
            _or_none(served[row, column]),
            _or_none(offline[row, column]),
        )
        for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    return Comparison(len(served), int((~unequal.any(axis=1)).sum()), differences)


def _or_none(value: np.float32) -> float | None:
    return None if np.isnan(value) else float(value)
