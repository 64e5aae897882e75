"""Two matrices of vectors, feature by feature."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from streamsvc.columns import Bools
from streamsvc.scoring.model import F32

__all__ = ["OUTCOMES", "Difference", "FeatureParity", "compare"]

OUTCOMES = ("match", "mismatch", "missing", "extra", "unchecked")
EXAMPLES = 3


class Difference(msgspec.Struct, frozen=True):
    """One value that is not what history says; None is missing."""

    prediction_id: str
    entity: dict[str, int | str | None]
    request_time_ms: int
    served: float | None
    recomputed: float | None


class FeatureParity(msgspec.Struct, frozen=True):
    """One feature of all vectors."""

    feature: str
    match: int = 0
    mismatch: int = 0
    """Both have a value, and not the same."""
    missing: int = 0
    """Served without a value that history has."""
    extra: int = 0
    """Served with a value that history does not have."""
    unchecked: int = 0
    examples: tuple[Difference, ...] = ()
    """The first that differ."""

    @property
    def differing(self) -> int:
        """How many are not what history says."""
        return self.mismatch + self.missing + self.extra

    def plus(self, other: FeatureParity) -> FeatureParity:
        """Both together, of the same feature."""
        return FeatureParity(
            self.feature,
            self.match + other.match,
            self.mismatch + other.mismatch,
            self.missing + other.missing,
            self.extra + other.extra,
            self.unchecked + other.unchecked,
            (*self.examples, *other.examples)[:EXAMPLES],
        )


def compare(
    served: F32,
    recomputed: F32,
    checked: Bools,
    features: Sequence[str],
    example: Callable[[int, float | None, float | None], Difference],
) -> list[FeatureParity]:
    """Compare matrices of shape (n, features), where `checked`, of the same shape, is true.

    Values match if they are the same float32, or neighbours: a sum depends on the order of arrival
    in its last bit, and that may be the one that rounding goes by. Missing is NaN.
    """
    none, nothing = np.isnan(served), np.isnan(recomputed)
    same = (none & nothing) | _neighbours(served, recomputed)
    found = []
    for j, feature in enumerate(features):
        on = checked[:, j]
        missing = on & none[:, j] & ~nothing[:, j]
        extra = on & ~none[:, j] & nothing[:, j]
        mismatch = on & ~same[:, j] & ~missing & ~extra
        rows = np.flatnonzero(missing | extra | mismatch)[:EXAMPLES].tolist()
        found.append(
            FeatureParity(
                feature,
                int((on & same[:, j]).sum()),
                int(mismatch.sum()),
                int(missing.sum()),
                int(extra.sum()),
                int((~on).sum()),
                tuple(example(i, _value(served[i, j]), _value(recomputed[i, j])) for i in rows),
            )
        )
    return found


def _neighbours(a: F32, b: F32) -> Bools:
    """Equal, or with no float32 between them."""
    with np.errstate(invalid="ignore", over="ignore"):
        close = (a <= np.nextafter(b, np.float32(np.inf))) & (
            a >= np.nextafter(b, np.float32(-np.inf))
        )
    return np.asarray((a == b) | (close & np.isfinite(a) & np.isfinite(b)), np.bool_)


def _value(number: np.float32) -> float | None:
    return None if np.isnan(number) else float(number)
