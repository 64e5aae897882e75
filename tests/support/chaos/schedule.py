"""Which faults hit what, and after how many records: drawn from a seed, the same every time.

Nothing here is a time. A fault comes after so many records, and one that lasts ends after so many
more, so that a slow machine meets the same faults in the same places of the log as a fast one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

KINDS = {
    # kind: (weight, [(variant, weight), …])
    "kill": (4, [("features", 3), ("scoring", 1)]),
    "pause": (4, [("features", 3), ("scoring", 1)]),
    "restart": (3, [("features", 3), ("scoring", 1)]),
    "scale": (2, [("features", 4), ("scoring", 1)]),
    "network": (4, [(f"{link} {how}", 1) for link in ("kafka", "store", "model")
                    for how in ("slow", "hang", "sever")]),
    "store_kill": (1, [("", 1)]),
    "store_flush": (2, [("", 1)]),
    "broker": (0, [("kill", 1), ("stop", 1)]),
    "rewind": (0, [("features", 1), ("scoring", 1)]),
    "model_kill": (0, [("", 1)]),
}  # fmt: skip
"""What can happen. Those of weight 0 take longest: they come as often as every kind must."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong."""

    kind: str
    variant: str
    """A kind of worker, or for the network which link, and what becomes of it."""
    gap: int
    """Records between the fault before and this one; 0 hits while that one is being mended."""
    burst: int
    """Records that are on their way when it hits."""
    lasts: int
    """Records until a pause or a slow network ends; 0 for as long as anybody can go on."""
    rank: int
    """Which of the workers of its kind."""
    working: bool
    """Whether it waits for a worker that has started; else it hits one that may be starting."""


def draw(seed: int, faults: int, kinds: Sequence[str] = tuple(KINDS)) -> list[Fault]:
    """`faults` of them; every kind at least once in twenty, and at least once."""
    rng = random.Random(seed)
    chosen = [kind for kind in kinds for _ in range(max(1, faults // 20))]
    assert len(chosen) <= faults, f"{len(kinds)} kinds do not go into {faults} faults"
    weights = [KINDS[kind][0] for kind in kinds]
    chosen += rng.choices(list(kinds), weights, k=faults - len(chosen))
    rng.shuffle(chosen)
    return [_fault(rng, kind) for kind in chosen]


def _fault(rng: random.Random, kind: str) -> Fault:
    variants, weights = zip(*KINDS[kind][1], strict=True)
    return Fault(
        kind=kind,
        variant=rng.choices(variants, weights)[0],
        gap=rng.choices((0, 200, 800, 3_000), (6, 5, 5, 2))[0],
        burst=rng.randrange(100, 600),
        lasts=rng.choice((0, 100, 400)),
        rank=rng.randrange(3),
        working=rng.random() < 0.8,
    )
