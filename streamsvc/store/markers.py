"""Applied-position markers: how far a view's online rows are.

A worker writes one per (view, state partition) after the rows of a chunk were acknowledged, so
whoever reads the marker first and then the rows sees at least what the marker promises. A store
that was flushed, or failed over to a replica that lagged, is noticed by its missing markers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from streamsvc.errors import IntegrityError
from streamsvc.store.client import Client, call
from streamsvc.store.keys import marker_key
from streamsvc.store.many_keys import mset, unlink

__all__ = ["Marker", "delete_markers", "read_markers", "write_marker", "write_markers"]


class Marker(msgspec.Struct, frozen=True):
    """What is readable in one state partition of a view."""

    incarnation: int = msgspec.field(name="i")
    applied: dict[str, dict[int, int]] = msgspec.field(name="v")
    """Source topic -> partition -> next source offset: all offsets below it are in the rows."""
    read_until_ms: int = msgspec.field(name="t")
    """Wall-clock ms until which everything that the broker held was read and applied."""
    clock_ms: int = msgspec.field(name="c")
    """The event-time clock up to which rows are aged."""

    def covers(self, topic: str, partition: int, offset: int) -> bool:
        """Whether the record at this source offset is in the rows."""
        return self.applied.get(topic, {}).get(partition, 0) > offset


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Marker)


def write_marker(client: Client, project: str, view: str, partition: int, marker: Marker) -> None:
    """Publish how far a state partition's rows are. Call it after the rows were acknowledged."""
    call(client, "SET", marker_key(project, view, partition), _encoder.encode(marker))


def write_markers(client: Client, project: str, markers: Mapping[tuple[str, int], Marker]) -> None:
    """Publish several markers, by (view, state partition), in one call."""
    encoded = {marker_key(project, *at): _encoder.encode(m) for at, m in markers.items()}
    mset(client, encoded)


def delete_markers(client: Client, project: str, ids: Iterable[tuple[str, int]]) -> None:
    """Take back what the markers of these (view, state partition) promise."""
    unlink(client, [marker_key(project, view, partition) for view, partition in ids])


def read_markers(
    client: Client, project: str, view: str, partitions: Sequence[int]
) -> list[Marker | None]:
    """The markers of these state partitions, in order; None where the store holds none.

    Raises IntegrityError for a marker that cannot be read.
    """
    if not partitions:
        return []
    names = [marker_key(project, view, partition) for partition in partitions]
    found = call(client, "MGET", *names)
    return [
        None if raw is None else _decoded(raw, name) for raw, name in zip(found, names, strict=True)
    ]


def _decoded(raw: bytes, name: bytes) -> Marker:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise IntegrityError(
            f"The online store holds a damaged marker under {name.decode()!r} ({error}). Delete "
            "that key: the feature worker of its partition writes it again."
        ) from error
