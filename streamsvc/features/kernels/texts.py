"""Text in payloads: a word with the length in bytes, then the bytes, padded with zeros.

Text is compared as bytes, which for UTF-8 is the order of code points.
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import U8
from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.jit import kernel
from streamsvc.features.kernels.layout import NEED_TEXT, TEXT_TOP
from streamsvc.features.kernels.payload import class_at, place_of, renew
from streamsvc.features.kernels.pool import class_of
from streamsvc.features.kernels.program import TEXT_BITS

__all__ = ["compare", "put_text", "write_text"]


@kernel
def put_text(cx: Context, at: int, data: U8, start: int, length: int) -> bool:
    """Make the payload at handle `at` this text; False if the pool must grow first."""
    words = 1 + (length + 7) // 8
    size_class = class_of(words)
    if (cx.pool[at] == 0 or class_at(cx, at) != size_class) and not renew(cx, at, size_class, 0):
        return False
    place = place_of(cx, at)
    cx.pool[place + words - 1] = 0
    cx.pool[place] = length
    for k in range(length):
        cx.bytes[(place + 1) * 8 + k] = data[start + k]
    return True


@kernel
def compare(a: U8, i: int, m: int, b: U8, j: int, n: int) -> int:
    """Sign of a[i:i+m] - b[j:j+n] in byte order."""
    for k in range(min(m, n)):
        if a[i + k] != b[j + k]:
            return np.int64(a[i + k]) - np.int64(b[j + k])  # type: ignore[return-value]
    return m - n


@kernel
def write_text(cx: Context, place: int, texts: U8, size: int) -> int:
    """Append the text at word address `place` to `texts`; its word, or -1 if it does not fit."""
    length, top = cx.pool[place], cx.meta[TEXT_TOP]
    if top + length > size:
        cx.meta[NEED_TEXT] = top + length
        return -1
    for k in range(length):
        texts[top + k] = cx.bytes[(place + 1) * 8 + k]
    cx.meta[TEXT_TOP] = top + length
    return top << TEXT_BITS | length
