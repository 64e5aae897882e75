"""An endless, seeded stream of payments whose producers make every mistake."""

from __future__ import annotations

import random
from collections.abc import Iterator

from support.payments import START_MS, generate

BLOCK = 2_000
STEP_MS = 400

Record = tuple[bytes | None, bytes | None, int | None]
"""Key, value, and the partition if it is not the one that the key chooses."""


def records(seed: int, partitions: int, cards: int) -> Iterator[Record]:
    """Out of order, late and malformed ones, some sent twice, some into another card's partition.

    A payment that is sent twice are two events. It may follow at once, or some hundred later.
    """
    rng = random.Random(seed)
    block = 0
    while True:
        made = generate(
            BLOCK,
            seed=seed * 10_000 + block,
            start_ms=START_MS + block * BLOCK * STEP_MS,
            cards=cards,
            keyed=True,
        ).records
        for i, (key, value) in enumerate(made):
            yield key, value, rng.randrange(partitions) if rng.random() < 0.002 else None
            if rng.random() < 0.01:
                yield *made[max(0, i - rng.choice((0, 1, 20, 300)))], None
        block += 1
