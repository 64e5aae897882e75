"""The rules that several definitions share, and how a mistake is told.

A mistake is one sentence: the object, what is wrong with it, and the fix. All of them are
collected before anyone is told, so a repo is mended in one go.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from streamsvc.definitions.functions import (
    FUNCTIONS,
    functions_of,
    is_function,
    percent_of,
    takes,
)
from streamsvc.definitions.plan import EventSchema, FieldType, JoinKey
from streamsvc.definitions.route import TAG_PREFIX
from streamsvc.definitions.windows import LEAST_HOP_MS, MOST_TILES, default_hop_ms

__all__ = [
    "check_features",
    "check_function",
    "check_tags",
    "check_types",
    "check_window",
    "duration",
    "field_types",
    "join_keys_of",
    "milliseconds",
    "nearest",
]

_OTHER_NAMES = {
    "avg": "mean",
    "average": "mean",
    "stddev": "std",
    "variance": "var",
    "median": "p50",
    "nunique": "count_distinct",
    "approx_count_distinct": "count_distinct",
    "latest": "last",
}
_KEY_TYPES: Mapping[str, FieldType] = {
    "String": "string",
    "Int32": "int64",
    "Int64": "int64",
    "UnixTimestamp": "int64",
}
_FLOATS = ("Float64", "Float32")
_INTEGERS = ("Int64", "Int32")


def nearest(name: str, names: Iterable[str]) -> str:
    """A hint that ends a sentence: the nearest of the names, or all of them."""
    known = sorted(names)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"there are {', '.join(known)}." if known else "there are none."


def milliseconds(value: timedelta) -> int:
    """Whole milliseconds, rounded down."""
    return value // timedelta(milliseconds=1)


def duration(ms: int) -> str:
    """Milliseconds as Feast's definitions write them."""
    return f"{ms / 1000:g} s"


def check_tags(what: str, tags: Mapping[str, str], known: Iterable[str]) -> list[str]:
    """Tags under our prefix that mean nothing here."""
    names = [TAG_PREFIX + name for name in known]
    return [
        f"{what}: unknown tag {tag!r}; {nearest(tag, names)}"
        for tag in tags
        if tag.startswith(TAG_PREFIX) and tag not in names
    ]


def check_function(what: str, function: str) -> list[str]:
    """Whether an aggregation function exists."""
    if is_function(function) and function != "latest":
        return []
    other = _OTHER_NAMES.get(function)
    hint = f"did you mean {other!r}?" if other else nearest(function, FUNCTIONS)
    return [f"{what}: unknown aggregation function {function!r}; {hint}"]


def check_window(what: str, window_ms: int, slide_ms: int | None, tiling_ms: int | None) -> int:
    """The hop of a window in milliseconds. ValueError holds the mistake."""
    if window_ms < LEAST_HOP_MS:
        raise ValueError(f"{what}: a window must be at least 1 s; set time_window.")
    origin, hop = "W/60", default_hop_ms(window_ms)
    if slide_ms is not None and slide_ms < window_ms:
        origin, hop = "slide_interval", slide_ms
    elif tiling_ms is not None:
        origin, hop = "tiling_hop_size", tiling_ms
    if hop < LEAST_HOP_MS:
        raise ValueError(
            f"{what}: its {origin} is {duration(hop)}; the least is {duration(LEAST_HOP_MS)}, "
            f"because the right edge of a window is exact anyway."
        )
    if window_ms % hop:
        raise ValueError(
            f"{what}: its window of {duration(window_ms)} is not a multiple of its {origin} of "
            f"{duration(hop)}; set slide_interval to a whole part of the window."
        )
    if window_ms // hop > MOST_TILES:
        raise ValueError(
            f"{what}: its {origin} of {duration(hop)} cuts the window into {window_ms // hop} "
            f"tiles; set slide_interval to at least {duration(-(-window_ms // MOST_TILES))}."
        )
    return hop


def check_types(what: str, function: str, column: FieldType, declared: str) -> list[str]:
    """Whether a function takes such a column, and the declared feature type holds its result."""
    kind = f"{'an' if column == 'int64' else 'a'} {column}"
    if not takes(function, column):
        return [
            f"{what}: {function} of {kind} column; functions of {kind} are {functions_of(column)}."
        ]
    fits = _holding(function, column)
    if declared in fits:
        return []
    of = f"{kind} column" if function == "latest" else f"{function} of {column}"
    return [f"{what}: {of} does not fit in {declared}; declare it {fits[0]}."]


def _holding(function: str, column: FieldType) -> tuple[str, ...]:
    """Feature types that hold the result of a function, the best first."""
    if function in {"count", "count_distinct"}:
        return (*_INTEGERS, *_FLOATS)
    if function in {"mean", "std", "var"} or percent_of(function) is not None:
        return _FLOATS
    if function == "sum" and column == "bool":
        return (*_INTEGERS, *_FLOATS)
    return {
        "string": ("String",),
        "bool": ("Bool", *_INTEGERS, *_FLOATS),
        "int64": (*_INTEGERS, *_FLOATS),
        "float64": _FLOATS,
    }[column]


def check_features(what: str, declared: Iterable[str], computed: Iterable[str]) -> list[str]:
    """Whether the schema's features are those that the aggregations compute, by name."""
    have, want = set(declared), list(computed)
    twice = sorted({name for name in want if want.count(name) > 1})
    missing, extra = sorted(set(want) - have), sorted(have - set(want))
    return [
        *(f"{what}: two aggregations are called {n!r}; give one of them a name." for n in twice),
        *(
            f"{what}: feature {n!r} of its aggregations is not in its schema; {_rename(n, extra)}"
            for n in missing
        ),
        *(
            f"{what}: feature {n!r} of its schema has no aggregation; {_supply(n, missing)}"
            for n in extra
        ),
    ]


def join_keys_of(what: str, view: Any, mistakes: list[str]) -> tuple[JoinKey, ...]:
    """The join keys of a Feast view, sorted by name; appends what is wrong with them."""
    keys = []
    for column in view.entity_columns:
        if column.name == "__dummy_id":
            mistakes.append(f"{what}: has no entities; set entities=[…].")
            continue
        kind = _KEY_TYPES.get(str(column.dtype))
        if kind == "string":
            keys.append(JoinKey(column.name, "string"))
        elif kind == "int64":
            keys.append(JoinKey(column.name, "int64"))
        else:
            mistakes.append(
                f"{what}: entity column {column.name!r} is {column.dtype}; "
                f"declare the entity's value_type STRING or INT64."
            )
    return tuple(sorted(keys, key=lambda key: key.name))


def field_types(schema: EventSchema) -> dict[str, FieldType]:
    """Column name -> type, as the events bring them."""
    return {field.name: field.type for field in schema.fields}


def _rename(name: str, extra: list[str]) -> str:
    near = difflib.get_close_matches(name, extra, n=1)
    if near:
        return f"rename Field {near[0]!r}, or set Aggregation(name={near[0]!r})."
    return f"add Field(name={name!r}, dtype=…)."


def _supply(name: str, missing: list[str]) -> str:
    near = difflib.get_close_matches(name, missing, n=1)
    if near:
        return f"its aggregation is called {near[0]!r}."
    return "remove the field, or add an Aggregation of that name."
