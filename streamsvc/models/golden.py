"""Golden vectors: whether another server computes the same function as the model we trained."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from streamsvc.errors import CheckFailedError
from streamsvc.models.artifact import F32, Golden, ModelCard

__all__ = ["GOLDEN_ROWS", "TOLERANCE", "check_golden", "choose_golden"]

GOLDEN_ROWS = 64
TOLERANCE = 1e-6


def choose_golden(matrix: F32, predict: Callable[[F32], F32], *, seed: int = 0) -> Golden:
    """At most 64 rows of a matrix, spread over it, and what `predict` answers to them.

    The last is all missing and a quarter have a third of their values knocked out, because
    servers differ in how they treat NaN before they differ in anything else.
    """
    rng = np.random.default_rng(seed)
    count = min(GOLDEN_ROWS - 1, len(matrix))
    rows = matrix[np.linspace(0, len(matrix) - 1, count).astype(np.int64)] if count else matrix
    holes = rng.random(rows.shape) < 1 / 3
    holes[np.arange(len(rows)) % 4 != 0] = False
    nothing = np.full((1, matrix.shape[1]), np.nan, np.float32)
    inputs = np.concatenate([np.where(holes, np.float32(np.nan), rows), nothing])
    return Golden.of(inputs, predict(inputs))


def check_golden(card: ModelCard, predict: Callable[[F32], F32], where: str) -> float:
    """Greatest absolute difference between `predict` and the golden answers.

    `predict` takes float32 (n, features) and gives (n,), (n, 1) or (n, classes). Raises
    CheckFailedError if the difference exceeds 1e-6, which would mean another model or another
    reading of missing values. Answers above 1, which only a regression gives, are compared by
    their share.
    """
    expected = np.array(card.golden.outputs)
    answered = np.asarray(predict(card.golden.matrix()), np.float64)
    if answered.ndim == 2 and card.task != "multiclass":
        answered = answered[:, -1]  # FIL gives the chance of either class for some binary models
    answered = answered.reshape(-1)
    if answered.shape != expected.shape:
        raise CheckFailedError(
            f"{where} answered {len(answered)} scores to {len(card.golden.inputs)} golden vectors "
            f"of {card.model} version {card.version}, and {len(expected)} are expected"
        )
    # A float32 of a thousand has no digit left for a millionth.
    scale = np.maximum(np.abs(expected), 1.0)
    worst = float(np.max(np.abs(answered - expected) / scale, initial=0.0))
    # Written so that a NaN answer fails too.
    if not worst <= TOLERANCE:
        raise CheckFailedError(
            f"{where} does not compute {card.model} version {card.version}: scores of its golden "
            f"vectors differ by up to {worst:.2g} (at most {TOLERANCE:g} is allowed). "
            f"Load the model again; if that does not help, the server runs another {card.kind}"
        )
    return worst
