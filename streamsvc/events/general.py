"""The general decoder: any JSON object → the same columns as the scan, and every rejection.

Records are parsed one by one (orjson), then each field is converted for all of them at once. What
a field takes: int64 takes integers, and numbers with a fraction of zero; float64 takes any number;
bool takes true and false; string takes strings. Nothing is converted between these.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import orjson

from streamsvc.columns import I64
from streamsvc.definitions.plan import EventField
from streamsvc.events.fields import Builder
from streamsvc.events.wire import Reject

__all__ = ["decode_general"]

_INT64_LIMIT: Final = 2**63
_SHOWN_CHARACTERS: Final = 60
_NAMES: Final = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}
_WANTED: Final = {
    "int64": "an integer within 64 bits",
    "float64": "a number",
    "bool": "true or false",
    "string": "a string",
}
_TAKES: Final[dict[str, frozenset[type]]] = {
    "int64": frozenset({int}),
    "float64": frozenset({int, float}),
    "bool": frozenset({bool}),
    "string": frozenset({str}),
}


def decode_general(
    builder: Builder, rows: I64, values: Sequence[memoryview], timestamp_field: str, base: int
) -> tuple[list[Reject], bytes]:
    """Fill `rows` of the columns from `values`, whatever those rows held before.

    Returns the rejects, and bytes to be put at position `base` of the data: the rows' strings lie
    there. A rejected row is left null. A record has one reject, its first fault in schema order;
    faults of the timestamp field come last and are `bad_event_time`.
    """
    builder.valid[:, rows] = False
    builder.words[:, rows] = 0
    rejects: list[Reject] = []
    objects: list[dict[str, Any]] = []
    kept: list[int] = []
    for row, value in zip(rows.tolist(), values, strict=True):
        try:
            found = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            rejects.append(Reject(row, "bad_json", f"The value is not JSON: {error}."))
            continue
        if isinstance(found, dict):
            objects.append(found)
            kept.append(row)
        else:
            what = f"The value is {_NAMES[type(found)]}, not a JSON object."
            rejects.append(Reject(row, "wrong_type", what))
    places = np.array(kept, np.int64)
    faults: dict[int, Reject] = {}
    tail = bytearray()
    parents: dict[tuple[str, ...], list[Any]] = {(): objects}
    # The timestamp last, so that another fault of the same record is the one that is named.
    order = sorted(
        range(len(builder.fields)), key=lambda i: builder.fields[i].name == timestamp_field
    )
    for i in order:
        field = builder.fields[i]
        reason: Any = "bad_event_time" if field.name == timestamp_field else "wrong_type"
        found_values = _walk(parents, field.path, faults, kept)
        good = _convert(builder, i, places, found_values, tail, base)
        for k in np.flatnonzero(~good).tolist():
            faults.setdefault(k, Reject(kept[k], reason, _fault(field, found_values[k])))
    if faults:
        bad = places[list(faults)]
        builder.valid[:, bad] = False
        builder.words[:, bad] = 0
        rejects.extend(faults.values())
    return rejects, bytes(tail)


def _walk(
    parents: dict[tuple[str, ...], list[Any]],
    path: tuple[str, ...],
    faults: dict[int, Reject],
    kept: list[int],
) -> list[Any]:
    """Each record's value at a path, None where it or an object around it is missing or null."""
    around = path[:-1]
    if around not in parents:
        found = _walk(parents, around, faults, kept)
        if not set(map(type, found)) <= {dict, type(None)}:
            for k, value in enumerate(found):
                if not isinstance(value, dict | None):
                    what = f"Field {'.'.join(around)!r} must be an object, not {_shown(value)}."
                    faults.setdefault(k, Reject(kept[k], "wrong_type", what))
                    found[k] = None
        parents[around] = found
    key = path[-1]
    return [None if parent is None else parent.get(key) for parent in parents[around]]


def _convert(
    builder: Builder, i: int, places: I64, values: list[Any], tail: bytearray, base: int
) -> Any:
    """Write one field of the records at `places`; returns which of them are good, shape (k,)."""
    field, slot = builder.fields[i], int(builder.slots[i])
    good = np.ones(len(values), np.bool_)
    types = set(map(type, values))
    nulls = type(None) in types
    present = np.array([v is not None for v in values], np.bool_) if nulls else good.copy()
    if not field.nullable:
        good &= present
    if not _is_clean(field, types, values):
        values = [_coerce(field, value) for value in values]
        taken = np.array([value is not None for value in values], np.bool_)
        good &= taken | ~present
        present = taken
        nulls = True
    if field.type == "string":
        encoded = [b"" if v is None else v.encode() for v in values]
        lengths = np.array([len(raw) for raw in encoded], np.int64)
        ends = base + len(tail) + np.cumsum(lengths)
        tail += b"".join(encoded)
        builder.words[slot, places] = np.where(present, ends - lengths, 0)
        builder.words[slot + 1, places] = np.where(present, ends, 0)
    else:
        filled = [0 if v is None else v for v in values] if nulls else values
        if field.type == "float64":
            builder.floats[slot, places] = np.array(filled, np.float64)
        else:
            builder.words[slot, places] = np.array(filled, np.int64)
    builder.valid[i, places] = present
    return good


def _is_clean(field: EventField, types: set[type], values: list[Any]) -> bool:
    """Whether every value is null or of the field's own type, and fits."""
    if not types - {type(None)} <= _TAKES[field.type]:
        return False
    if field.type != "int64":
        return True
    return all(v is None or -_INT64_LIMIT <= v < _INT64_LIMIT for v in values)


def _coerce(field: EventField, value: Any) -> Any:
    """The value as the field takes it, None if it does not."""
    if type(value) in _TAKES[field.type]:
        if field.type == "int64" and not -_INT64_LIMIT <= value < _INT64_LIMIT:
            return None
        return value
    # -2**63 itself is left out: as a float it also stands for integers just below.
    if field.type == "int64" and type(value) is float and abs(value) < _INT64_LIMIT:
        return int(value) if value.is_integer() else None
    return None


def _fault(field: EventField, value: Any) -> str:
    if value is None:
        return f"Field {field.name!r} is missing or null."
    return f"Field {field.name!r} must be {_WANTED[field.type]}, not {_shown(value)}."


def _shown(value: Any) -> str:
    """What a value is, and the start of its text if that can be short."""
    if isinstance(value, dict | list):
        return _NAMES[type(value)]
    text = orjson.dumps(value).decode()
    short = text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"
    return text if isinstance(value, bool) else f"{_NAMES[type(value)]} {short}"
