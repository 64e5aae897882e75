"""Where kernels write the values of rows."""

from __future__ import annotations

from typing import NamedTuple

from streamsvc.columns import F64, I64, U8
from streamsvc.features.kernels.jit import kernel
from streamsvc.features.kernels.pointers import as_floats, pointer

__all__ = ["Output", "bind_output"]


class Output(NamedTuple):
    """Where rows go, as pointers; feature f of row i is at f * n + i."""

    words: I64
    numbers: F64
    """The words as floats."""
    valid: U8
    n: int
    texts: U8
    """What the words of text features point into, filled up to `meta[TEXT_TOP]`."""
    texts_size: int


@kernel
def bind_output(words: I64, valid: U8, texts: U8) -> Output:
    """Pointers to arrays of shape (features, n)."""
    return Output(
        pointer(words),
        as_floats(words),
        pointer(valid),
        words.shape[1],
        pointer(texts),
        len(texts),
    )
