"""A request that nobody made: scored once before the worker joins its group.

Kernels are compiled (or loaded from their cache) and connections opened then, and not while the
first real request's deadline runs.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec

from streamsvc.definitions.plan import EventField, Source
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.columnar_fetch import chunk_of_records

__all__ = ["sample_chunk"]

_SAMPLES: dict[str, Any] = {"int64": 1, "float64": 1.0, "bool": True, "string": "sample"}
_TIMES: dict[str | None, Any] = {
    "s": 1_577_836_800,
    "ms": 1_577_836_800_000,
    "us": 1_577_836_800_000_000,
    "ns": 1_577_836_800_000_000_000,
}


def sample_chunk(source: Source) -> Chunk:
    """Two records of a source's schema, with and without an ordinary header."""
    value: dict[str, Any] = {}
    for field in source.schema.fields:
        at = value
        for name in field.path[:-1]:
            at = at.setdefault(name, {})
        at[field.path[-1]] = _sample(source, field)
    encoded = msgspec.json.encode(value)
    records = [
        SimpleNamespace(offset=i, timestamp=-1, key=None, value=encoded, headers=headers)
        for i, headers in enumerate([(), (("sample", b"1"),)])
    ]
    return chunk_of_records(source.topic, 0, records, 0, len(records))


def _sample(source: Source, field: EventField) -> Any:
    if field.name != source.schema.timestamp_field:
        return _SAMPLES[field.type]
    if field.type == "string":
        return "2020-01-01T00:00:00Z"
    time = _TIMES.get(source.schema.time_unit, 1_577_836_800)
    return float(time) if field.type == "float64" else time
