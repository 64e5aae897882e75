"""What a feature worker asks of an online store, and ours.

Rows are written, and only then promised, by markers. What a store cannot do is lost with it:
`streamsvc.feast.FeastRowStore` has the least that will do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from streamsvc.columns import BytesColumn
from streamsvc.store.client import Client
from streamsvc.store.heartbeat import Heartbeat
from streamsvc.store.layouts import publish_layout
from streamsvc.store.markers import Marker, delete_markers, read_markers, write_markers
from streamsvc.store.read_positions import ReadPosition, SharedPositions
from streamsvc.store.row import PackedRows, RowLayout
from streamsvc.store.sweep import delete_older, delete_older_rows
from streamsvc.store.writer import FencedWriter, Refusal

__all__ = ["PackedRowStore", "RowBatch", "RowStore", "StatePartition", "Written"]

RowBatch: TypeAlias = tuple[str, BytesColumn, PackedRows]
"""View, entity keys, and a row for each."""
StatePartition: TypeAlias = tuple[str, int]
"""View, and state partition of it."""


@dataclass(frozen=True, slots=True)
class Written:
    """What became of a write."""

    refused: Sequence[Refusal]
    """What of each batch gave way to what is stored."""
    positions: Mapping[str, Mapping[int, ReadPosition]]
    """How far source partitions are read, by topic and partition, as far as is known."""
    intact: bool = True
    """Whether the store still has all that was written before."""


class RowStore(Protocol):
    """Rows of one project and what is noted beside them. All calls wait for the store, and raise
    UnavailableError where it does not answer."""

    few_rows: int
    """So many rows take less than a thread takes to wake."""
    remembers: bool
    """Whether what one worker promised is there for the next."""

    def introduce(self, view: str, layout: RowLayout) -> None:
        """Say what the rows of a view hold, before the first one is written."""

    def write(
        self,
        batches: Sequence[RowBatch],
        ours: Mapping[tuple[str, int], ReadPosition],
        partitions: Mapping[str, int],
    ) -> Written:
        """Write rows. `ours` says how far we have read source partitions, by (topic, partition);
        `partitions` how many the topics have."""

    def promise(self, markers: Mapping[StatePartition, Marker]) -> None:
        """Say what rows that were written contain."""

    def take_back(self, partitions: Iterable[StatePartition]) -> None:
        """Promise nothing of these any more."""

    def promised(self, view: str, partitions: Sequence[int]) -> list[Marker | None]:
        """What is promised of state partitions of a view."""

    def delete_older(self, view: str, incarnation: int) -> int:
        """Delete rows of incarnations before this one, and what is promised of the view; how many
        rows."""

    def delete_older_rows(self, view: str, incarnation: int) -> int:
        """Delete rows of incarnations before this one, and nothing else; how many."""


class PackedRowStore:
    """Packed rows behind a fence in a server that speaks the Redis protocol."""

    few_rows = 128
    remembers = True

    def __init__(self, client: Client, project: str, owner: str = "") -> None:
        """`owner` names a worker that writes."""
        self._client = client
        self._project = project
        self._writer = FencedWriter(client, project)
        self._heartbeat = Heartbeat(client, project, owner)

    def introduce(self, view: str, layout: RowLayout) -> None:
        """See RowStore."""
        publish_layout(self._client, self._project, view, layout)

    def write(
        self,
        batches: Sequence[RowBatch],
        ours: Mapping[tuple[str, int], ReadPosition],
        partitions: Mapping[str, int],
    ) -> Written:
        """See RowStore. Rows go between positions and the heartbeat, in the same round trips."""
        shared = SharedPositions(self._project, ours, partitions)
        beat = self._heartbeat.commands()
        first, told, refused = self._writer.write_between(shared.commands, batches, beat)
        # Each, in order: what is lost between two parts of a write shows only behind the second.
        intact = [self._heartbeat.intact(replies) for replies in told]
        return Written(refused, shared.found(first), all(intact))

    def promise(self, markers: Mapping[StatePartition, Marker]) -> None:
        """See RowStore."""
        write_markers(self._client, self._project, markers)

    def take_back(self, partitions: Iterable[StatePartition]) -> None:
        """See RowStore."""
        delete_markers(self._client, self._project, partitions)

    def promised(self, view: str, partitions: Sequence[int]) -> list[Marker | None]:
        """See RowStore."""
        return read_markers(self._client, self._project, view, partitions)

    def delete_older(self, view: str, incarnation: int) -> int:
        """See RowStore."""
        return delete_older(self._client, self._project, view, incarnation)

    def delete_older_rows(self, view: str, incarnation: int) -> int:
        """See RowStore."""
        return delete_older_rows(self._client, self._project, view, incarnation)
