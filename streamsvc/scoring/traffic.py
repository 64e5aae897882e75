"""Who answers for whom: the champion, and a candidate for its share of the entities.

An entity is assigned by a hash of its join keys and the experiment's salt, so it meets the same
variant on every worker and in every batch. The hash is a number in [0, 1), and the candidate has
those below its weight: raising the weight moves entities from the champion to the candidate and
none back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import F64, I64, U64, Bools, Column
from streamsvc.entity_keys import key_text, murmur2
from streamsvc.models.artifact import ModelCard
from streamsvc.scoring.fallback import Ladder

__all__ = ["CHAMPION", "SHADOW", "Traffic", "Variant", "unit_hash"]

CHAMPION = "champion"
SHADOW = "shadow"


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """One model version with what asks it."""

    name: str
    """As in predictions: `champion`, `canary`, `arm` or `shadow`."""
    card: ModelCard
    ladder: Ladder
    columns: I64 | None
    """Which columns of the service's matrix are the model's, in its own order; None for all."""

    @property
    def version(self) -> str:
        """The model version, as records and metrics name it."""
        return str(self.card.version)


@dataclass(frozen=True, slots=True, eq=False)
class Traffic:
    """The variants of a service, and their shares."""

    champion: Variant
    candidate: Variant | None = None
    weight: float = 0.0
    """Per cent of the entities that are the candidate's."""
    salt: str = ""

    @property
    def variants(self) -> tuple[Variant, ...]:
        """All of them, the champion first."""
        return (self.champion,) if self.candidate is None else (self.champion, self.candidate)

    @property
    def shadow(self) -> Variant | None:
        """The candidate, if nobody waits for its answers."""
        found = self.candidate
        return found if found is not None and found.name == SHADOW else None

    @property
    def divided(self) -> bool:
        """Whether `split` has anything to find out."""
        return self.candidate is not None and self.candidate.name != SHADOW

    def split(self, entity: Mapping[str, Column]) -> list[tuple[Variant, I64]]:
        """The rows of each variant that answers; a variant without any is left out.

        `entity` holds the join keys' values of n requests.
        """
        assert self.candidate is not None
        his = self._of_candidate(entity)
        parts = ((self.champion, np.flatnonzero(~his)), (self.candidate, np.flatnonzero(his)))
        return [(variant, rows) for variant, rows in parts if len(rows)]

    def shadowed(self, entity: Mapping[str, Column]) -> I64:
        """The rows that the shadow is asked about, too."""
        return np.flatnonzero(self._of_candidate(entity))

    def _of_candidate(self, entity: Mapping[str, Column]) -> Bools:
        return unit_hash([entity[name] for name in sorted(entity)], self.salt) < self.weight / 100


def unit_hash(columns: Sequence[Column], salt: str) -> F64:
    """A number in [0, 1) for each row of the columns, (n,), spread evenly over the values.

    murmur2 of each value's text, mixed in turn into a word that begins as the salt's SHA-256, by
    the finalizer of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
    2014). So it has nothing to do with Kafka's partition of the same key.
    """
    seed = int.from_bytes(hashlib.sha256(salt.encode()).digest()[:8], "little")
    word = np.full(len(columns[0]), seed, np.uint64)
    for column in columns:
        word = _mixed(word ^ _hashed(column))
    return (word >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _hashed(column: Column) -> U64:
    found = murmur2(key_text(column)).astype(np.uint64)
    found[~column.valid] = np.uint64(1) << np.uint64(32)  # no value's hash is as great
    return found


def _mixed(word: U64) -> U64:
    word = word + np.uint64(0x9E3779B97F4A7C15)
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
