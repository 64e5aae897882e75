"""The header that Schema Registry clients put before a value: a 0 byte and the schema's id.

Five bytes: the magic byte 0 and the id, big endian. Behind it Protobuf has the place of the message
type in its file. The registry itself is asked through `SchemaRegistry`; this room knows no client.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np

from streamsvc.columns import I64, U8, Bools
from streamsvc.events.wire import Reject

__all__ = ["HEADER_BYTES", "SAMPLE_ID", "SchemaRegistry", "WriterSchema", "schema_ids"]

HEADER_BYTES: Final = 5
SAMPLE_ID: Final = 0xFFFF_FFFF
"""The id of sample records, which are of the declared schema; registries count in 31 bits."""


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


def schema_ids(data: U8, start: I64, end: I64, rows: Bools) -> tuple[I64, list[Reject]]:
    """The schema id of each of `rows`, -1 for other rows and bad headers; shape (n,)."""
    ids = np.full(len(rows), -1, np.int64)
    chosen = np.flatnonzero(rows)
    short = end[chosen] - start[chosen] < HEADER_BYTES
    rejects = [
        Reject(
            row,
            "bad_header",
            f"The value has {end[row] - start[row]} bytes, fewer than the {HEADER_BYTES} of a"
            " Schema Registry header.",
        )
        for row in chosen[short].tolist()
    ]
    chosen = chosen[~short]
    head = data[start[chosen][:, None] + np.arange(HEADER_BYTES)].astype(np.int64)
    wrong = head[:, 0] != 0
    rejects += [
        Reject(
            row,
            "bad_header",
            f"The value begins with byte {first}, not with the 0 of a Schema Registry header.",
        )
        for row, first in zip(chosen[wrong].tolist(), head[wrong, 0].tolist(), strict=True)
    ]
    found = head[:, 1] << 24 | head[:, 2] << 16 | head[:, 3] << 8 | head[:, 4]
    ids[chosen[~wrong]] = found[~wrong]
    return ids, rejects
