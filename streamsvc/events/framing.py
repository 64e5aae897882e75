"""The header that Schema Registry clients put before a value: a 0 byte and the schema's id.

Five bytes: the magic byte 0 and the id, big endian. Behind it Protobuf has the place of the message
type in its file. The registry itself is asked through `SchemaRegistry`; this room knows no client.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Generic, Protocol, TypeVar

import numpy as np

from streamsvc.columns import I64, U8, Bools
from streamsvc.events.jit import kernel
from streamsvc.events.wire import Reason, Reject
from streamsvc.features.kernels.pointers import pointer

__all__ = [
    "HEADER_BYTES",
    "SAMPLE_ID",
    "SchemaRegistry",
    "Unusable",
    "WriterSchema",
    "WriterSchemas",
    "schema_ids",
]

T = TypeVar("T")

HEADER_BYTES: Final = 5
SAMPLE_ID: Final = 0xFFFF_FFFF
"""The id of sample records, which are of the declared schema; registries count in 31 bits."""
_NO_ID: Final = -1
_SHORT: Final = -2
_WRONG_MAGIC: Final = -3


@dataclass(frozen=True, slots=True)
class WriterSchema:
    """A schema as the registry has it."""

    kind: str
    """AVRO, PROTOBUF or JSON."""
    text: str
    references: tuple[str, ...] = ()
    """Texts of the schemas that it uses, each after those that it uses itself."""


class SchemaRegistry(Protocol):
    """What is needed of a registry. Any number of threads may share it."""

    def schema(self, schema_id: int) -> WriterSchema | None:
        """The schema of that id, None if the registry has none.

        Raises UnavailableError when the registry does not answer.
        """
        ...


@dataclass(frozen=True, slots=True)
class Unusable:
    """A schema whose records cannot be read, and why."""

    reason: Reason
    why: str

    def rejects(self, rows: Bools) -> list[Reject]:
        """The records of that schema, refused."""
        return [Reject(row, self.reason, self.why) for row in np.flatnonzero(rows).tolist()]


class WriterSchemas(Generic[T]):
    """What a reader has made of writers' schemas, by id; made once, when the id is first met."""

    def __init__(
        self,
        registry: SchemaRegistry | None,
        kind: str,
        make: Callable[[WriterSchema], T],
        sample: T,
    ) -> None:
        """`make` raises ValueError for a schema that does not do; `sample` is for sample records.

        A source without headers needs no registry.
        """
        self._registry = registry
        self._kind = kind
        self._make = make
        self._known: dict[int, T | Unusable] = {SAMPLE_ID: sample}

    def of(self, schema_id: int) -> T | Unusable:
        """What was made of that schema. Raises UnavailableError if the registry is away."""
        found = self._known.get(schema_id)
        if found is not None:
            return found
        assert self._registry is not None
        written = self._registry.schema(schema_id)
        if written is None:  # not remembered: it may be there when the next record comes
            return Unusable("unknown_schema", f"The schema registry has no schema {schema_id}.")
        where = f"Schema {schema_id} of the registry"
        made: T | Unusable
        if written.kind != self._kind:
            why = f"{where} is of type {written.kind}, not {self._kind}."
            made = Unusable("schema_mismatch", why)
        else:
            try:
                made = self._make(written)
            except ValueError as error:
                made = Unusable("schema_mismatch", f"{where} cannot be used: {error}")
        self._known[schema_id] = made
        return made


def schema_ids(data: U8, start: I64, end: I64, rows: Bools) -> tuple[I64, list[Reject]]:
    """The schema id of each of `rows`, -1 for other rows and bad headers; shape (n,)."""
    ids = np.empty(len(rows), np.int64)
    if not _read_ids(data, start, end, rows, ids):
        return ids, []
    rejects = []
    for row in np.flatnonzero(ids < _NO_ID).tolist():
        why = f"begins with byte {data[start[row]]}, not with the 0"
        if ids[row] == _SHORT:
            why = f"has {end[row] - start[row]} bytes, fewer than the {HEADER_BYTES}"
        why = f"The value {why} of a Schema Registry header."
        rejects.append(Reject(row, "bad_header", why))
        ids[row] = _NO_ID
    return ids, rejects


@kernel
def _read_ids(data: U8, start: I64, end: I64, rows: Bools, ids: I64) -> bool:
    """Fill `ids`; returns whether one of `rows` has no good header."""
    a: Any = pointer(data)
    bad = False
    for i in range(len(rows)):
        p = start[i]
        if not rows[i]:
            ids[i] = _NO_ID
        elif end[i] - p < HEADER_BYTES:
            ids[i] = _SHORT
            bad = True
        elif a[p] != 0:
            ids[i] = _WRONG_MAGIC
            bad = True
        else:
            high = np.int64(a[p + 1]) << 24 | np.int64(a[p + 2]) << 16
            ids[i] = high | np.int64(a[p + 3]) << 8 | np.int64(a[p + 4])
    return bad
