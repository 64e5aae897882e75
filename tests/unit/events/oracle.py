"""What a record means, in plain Python: the json module, float(), datetime and no NumPy."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from streamsvc.definitions.plan import EventSchema

MAX_INT = 2**63 - 1
TIME = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)"
    r"(?:[Tt ](\d\d):(\d\d)(?::(\d\d)(?:[.,](\d+))?)?(Z|z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII,
)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class RefusedError(Exception):
    """The reason why a record is no event."""


def decode(raw: bytes, schema: EventSchema) -> tuple[dict[str, Any], int]:
    """Field values and the event time in milliseconds. Raises RefusedError."""
    found = _load(raw)
    if not isinstance(found, dict):
        raise RefusedError("wrong_type")
    values: dict[str, Any] = {}
    stamp = next(f for f in schema.fields if f.name == schema.timestamp_field)
    for field in (*(f for f in schema.fields if f is not stamp), stamp):
        reason = "bad_event_time" if field is stamp else "wrong_type"
        here: Any = found
        for depth, key in enumerate(field.path):
            here = here.get(key)
            inside = depth < len(field.path) - 1
            if here is None:
                break
            if inside and not isinstance(here, dict):
                raise RefusedError("wrong_type")
        if here is None and not field.nullable:
            raise RefusedError(reason)
        values[field.name] = None if here is None else _typed(here, field.type, reason)
    time = values[schema.timestamp_field]
    if isinstance(time, str):
        ms = iso_ms(time)
    else:
        scale = {"ms": 1, "us": 1_000, "ns": 1_000_000}[str(schema.time_unit)]
        ms = int(time // scale)
    if ms is None or not 0 <= ms <= 253_402_300_799_999:
        raise RefusedError("bad_event_time")
    return values, ms


def iso_ms(text: str) -> int | None:
    """Milliseconds since 1970 of ISO-8601 text, None if it is not a time from 1970 to 9999."""
    match = TIME.fullmatch(text)
    if match is None:
        return None
    year, month, day, hour, minute, second = (int(g or 0) for g in match.groups()[:6])
    try:
        local = datetime(year, month, day, hour, minute, second, tzinfo=UTC)
        zone = match[8] or "Z"
        if zone not in "Zz":
            hours, minutes = int(zone[1:3]), int(zone[3:].lstrip(":") or 0)
            if hours > 23 or minutes > 59:
                return None
            offset = timedelta(hours=hours, minutes=minutes)
            local = local - offset if zone[0] == "+" else local + offset
    except (ValueError, OverflowError):
        return None
    ms = (local - EPOCH) // timedelta(milliseconds=1) + int((match[7] or "0").ljust(3, "0")[:3])
    return ms if ms >= 0 else None


def _load(raw: bytes) -> Any:
    try:
        found = json.loads(
            raw.decode(),
            parse_constant=_constant,
            parse_float=_number,
            parse_int=_integer,
            object_pairs_hook=_object,
        )
        json.dumps(found, ensure_ascii=False).encode()  # a lone surrogate is no text
    except (ValueError, RecursionError) as error:
        raise RefusedError("bad_json") from error
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    json.dumps(pairs, ensure_ascii=False).encode()  # also where a key stands twice
    return dict(pairs)


def _constant(text: str) -> Any:
    raise ValueError(text)


def _number(text: str) -> float:
    if float(text) in (float("inf"), float("-inf")):
        raise ValueError(text)
    return float(text)


def _integer(text: str) -> int:
    _number(text)
    return int(text)


def _typed(value: Any, kind: str, reason: str) -> Any:
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "string" and isinstance(value, str):
        return value
    if not isinstance(value, bool) and isinstance(value, int | float):
        if kind == "float64":
            return float(value)
        if kind == "int64" and isinstance(value, int) and -(2**63) <= value <= MAX_INT:
            return value
        if kind == "int64" and isinstance(value, float) and value.is_integer():
            if abs(value) >= 2**63:
                raise RefusedError(reason)
            return int(value)
    raise RefusedError(reason)
