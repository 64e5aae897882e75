"""From the extras of tiles to values, as `fold` does for the plain accumulators."""

from __future__ import annotations

from streamsvc.features.kernels import distinct as hll
from streamsvc.features.kernels import percentiles as ddsketch
from streamsvc.features.kernels.context import Context
from streamsvc.features.kernels.extras import LATEST_VALUE
from streamsvc.features.kernels.jit import inlined, kernel
from streamsvc.features.kernels.layout import TEXT_TOP
from streamsvc.features.kernels.output import Output
from streamsvc.features.kernels.payload import place_of
from streamsvc.features.kernels.program import (
    DISTINCT,
    EX_AT,
    EX_KIND,
    EX_RUN,
    EX_TYPE,
    EXTRA_WORDS,
    FUNCTION,
    LATEST,
    OUTPUT_WORDS,
    PERCENTILES,
    POSITION,
    TEXT_FIRST,
    TEXT_LAST,
    TEXT_MIN,
    TEXTS,
)
from streamsvc.features.kernels.rings import ring_count, ring_of, tile_at
from streamsvc.features.kernels.texts import compare, write_text

__all__ = ["fold_extras"]


@kernel
def fold_extras(cx: Context, slot: int, out: Output, row: int) -> bool:
    """Write the values of all extras, as of the last `settle`, into row `row`.

    False if the text does not fit (`meta[NEED_TEXT]`); nothing is lost then.
    """
    top = cx.meta[TEXT_TOP]
    for group in range(cx.groups):
        for x in range(cx.first_extra[group], cx.first_extra[group + 1]):
            e = x * EXTRA_WORDS
            kind = cx.extras[e + EX_KIND]
            if kind == DISTINCT:
                _fold_distinct(cx, slot, group, e, out, row)
            elif kind == PERCENTILES:
                _fold_percentiles(cx, slot, group, e, out, row)
            elif not _fold_one(cx, slot, group, e, out, row):
                cx.meta[TEXT_TOP] = top
                return False
    return True


@kernel
def _fold_distinct(cx: Context, slot: int, group: int, e: int, out: Output, row: int) -> None:
    r, stride = ring_of(cx, slot, group), cx.stride[group]
    i = ring_count(cx, slot, group)
    w0 = cx.first_window[group]
    count = 0
    for w in range(w0, cx.first_window[group + 1]):
        while i > cx.cuts[w]:
            i -= 1
            count = hll.unite(cx, tile_at(cx, r, stride, i) + cx.extras[e + EX_AT], count)
        run = cx.extras[e + EX_RUN] + w - w0
        for o in range(cx.first_output[run], cx.first_output[run + 1]):
            at = cx.outputs[o * OUTPUT_WORDS + POSITION] * out.n + row
            out.words[at] = hll.distinct(cx, count)
            out.valid[at] = 1
    hll.empty_union(cx, count)


@kernel
def _fold_percentiles(cx: Context, slot: int, group: int, e: int, out: Output, row: int) -> None:
    r, stride = ring_of(cx, slot, group), cx.stride[group]
    i = ring_count(cx, slot, group)
    w0 = cx.first_window[group]
    total, first, last = 0, ddsketch.SCRATCH, -1
    for w in range(w0, cx.first_window[group + 1]):
        while i > cx.cuts[w]:
            i -= 1
            at_handle = tile_at(cx, r, stride, i) + cx.extras[e + EX_AT]
            if cx.pool[at_handle] > 0:
                total += ddsketch.unite(cx, at_handle)
                first = min(first, ddsketch.first_word(cx, at_handle))
                last = max(last, ddsketch.last_word(cx, at_handle))
        run = cx.extras[e + EX_RUN] + w - w0
        for o in range(cx.first_output[run], cx.first_output[run + 1]):
            at = cx.outputs[o * OUTPUT_WORDS + POSITION] * out.n + row
            out.words[at] = 0
            out.valid[at] = total > 0
            if total > 0:
                percent = cx.outputs[o * OUTPUT_WORDS + FUNCTION]
                out.numbers[at] = ddsketch.percentile(cx, percent, total, first)
    if total > 0:
        ddsketch.clear(cx, first, last)


@kernel
def _fold_one(cx: Context, slot: int, group: int, e: int, out: Output, row: int) -> bool:
    """Text, and the latest row: one tile has the value."""
    kind, is_text = cx.extras[e + EX_KIND], cx.extras[e + EX_TYPE] == TEXTS
    r, stride = ring_of(cx, slot, group), cx.stride[group]
    i = ring_count(cx, slot, group)
    w0 = cx.first_window[group]
    best = -1
    for w in range(w0, cx.first_window[group + 1]):
        while i > cx.cuts[w]:
            i -= 1
            at = tile_at(cx, r, stride, i) + cx.extras[e + EX_AT]
            if _is_better(cx, kind, at, best):
                best = at
        run = cx.extras[e + EX_RUN] + w - w0
        for o in range(cx.first_output[run], cx.first_output[run + 1]):
            cell = cx.outputs[o * OUTPUT_WORDS + POSITION] * out.n + row
            valid = best >= 0 and (kind != LATEST or cx.pool[best + 4] == LATEST_VALUE)
            out.words[cell] = 0
            out.valid[cell] = valid
            if not valid:
                continue
            word = cx.pool[_value_of(kind, best)]
            if is_text:
                place = place_of(cx, _value_of(kind, best))
                word = write_text(cx, place, out.texts, out.texts_size)
                if word < 0:
                    return False
            out.words[cell] = word
    return True


@inlined
def _value_of(kind: int, at: int) -> int:
    """Where the value of an accumulator stands, or the handle of its text."""
    return at + 3 if kind in (TEXT_FIRST, TEXT_LAST, LATEST) else at


@kernel
def _is_better(cx: Context, kind: int, at: int, best: int) -> bool:
    """Whether a tile that is older than all before it has the window's value."""
    if cx.pool[at + 4 if kind == LATEST else _value_of(kind, at)] == 0:
        return False
    if best < 0 or kind == TEXT_FIRST:
        return True
    if kind in (LATEST, TEXT_LAST):
        return False
    a, b = place_of(cx, at), place_of(cx, best)
    sign = compare(cx.bytes, (a + 1) * 8, cx.pool[a], cx.bytes, (b + 1) * 8, cx.pool[b])
    return sign < 0 if kind == TEXT_MIN else sign > 0
