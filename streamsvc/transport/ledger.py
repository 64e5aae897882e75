"""Which chunks were delivered, which are done, and how far a partition may be committed.

Per partition, slots in delivery order. What may be committed is the `next_offset` of the longest
acknowledged prefix, or what a worker that keeps positions of its own says is done: it knows more,
for a chunk may be done when its slot is dead, or before this process had it at all. Two rules make
losing a chunk impossible rather than unlikely:

- a chunk is only accepted if it starts exactly where the one before it ended (or where the
  partition was sought to); anything else raises IntegrityError;
- an acknowledgement acts on its own slot, never on a bare offset. Once a partition is revoked or
  sought its slots are dead, so that a late acknowledgement cannot vouch for a neighbour that is
  still to be done.

No client and no clock in here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import TypeAlias

from streamsvc.errors import IntegrityError

__all__ = ["Ledger", "Partition", "Slot"]

Partition: TypeAlias = tuple[str, int]


class Slot:
    """One delivered chunk. `live` until its partition is revoked or sought again."""

    __slots__ = ("acked", "live", "next_offset")

    def __init__(self, next_offset: int) -> None:
        self.next_offset = next_offset
        self.acked = False
        self.live = True

    def ack(self) -> None:
        """Marks the chunk as done. Safe from any thread, harmless when repeated or late."""
        self.acked = True


class _Track:
    __slots__ = ("blank", "done", "expected", "slots", "start")

    def __init__(self, position: int) -> None:
        self.start = position
        self.blank = (position, position)
        self.expected = position
        self.done: int | None = None
        self.slots: deque[Slot] = deque()


class Ledger:
    """Slots of all partitions that this consumer holds. Used from one thread, acks excepted."""

    def __init__(self) -> None:
        self._tracks: dict[Partition, _Track] = {}

    def start(self, positions: Mapping[Partition, int]) -> None:
        """Partitions (re)start at these offsets; whatever they had in flight is void."""
        for partition, position in positions.items():
            self._void(partition)
            self._tracks[partition] = _Track(position)

    def drop(self, partitions: frozenset[Partition] | None = None) -> None:
        """Forgets these partitions (None: all)."""
        for partition in list(self._tracks if partitions is None else partitions):
            self._void(partition)
            self._tracks.pop(partition, None)

    def _void(self, partition: Partition) -> None:
        if track := self._tracks.get(partition):
            for slot in track.slots:
                slot.live = False

    def __contains__(self, partition: Partition) -> bool:
        return partition in self._tracks

    def partitions(self) -> list[Partition]:
        """The partitions held."""
        return list(self._tracks)

    def expected(self, partition: Partition) -> int | None:
        """The offset at which the next chunk must start; None for a partition not held."""
        track = self._tracks.get(partition)
        return track.expected if track else None

    def past_blanks(self, partition: Partition, offset: int) -> int:
        """Where the next record can lie at the earliest for whoever has read up to `offset`.

        Beyond the last record of a transaction lies its marker, which nobody is ever handed. Any
        thread may ask.
        """
        track = self._tracks.get(partition)
        start, end = track.blank if track else (offset, offset)
        return max(offset, end) if offset >= start else offset

    def deliver(
        self, partition: Partition, first_offset: int, next_offset: int, *, blank: bool = False
    ) -> Slot:
        """Takes the next chunk `first_offset … next_offset - 1` in; `blank` for one of no records.

        Raises IntegrityError if it does not continue the partition.
        """
        topic, number = partition
        track = self._tracks.get(partition)
        if track is None:
            raise IntegrityError(f"A chunk arrived for {topic}/{number}, which is not assigned")
        if first_offset != track.expected or next_offset <= first_offset:
            raise IntegrityError(
                f"{topic}/{number} goes on at offset {first_offset}, but {track.expected} was "
                "next. Records were deleted unread (retention, DeleteRecords), or the "
                "topic was recreated. Going on would skip them in silence. Start the worker again: "
                "it begins anew on a new topic, or says what is missing and how to go on without."
            )
        track.expected = next_offset
        if blank:
            start, end = track.blank
            track.blank = (start if end == first_offset else first_offset, next_offset)
        slot = Slot(next_offset)
        track.slots.append(slot)
        return slot

    def done_below(self, offsets: Mapping[Partition, int]) -> None:
        """Every record below these offsets is done, whether its slot was acknowledged or not.

        Partitions that are not held, and offsets below where one started, say nothing new.
        """
        for partition, offset in offsets.items():
            track = self._tracks.get(partition)
            if track is not None and offset >= track.start:
                track.done = max(offset, track.done or 0)

    def committable(self, partition: Partition) -> int | None:
        """The offset below which every record is done: that of the acknowledged prefix, or what
        `done_below` was told.

        None if neither says anything since the partition was started.
        """
        track = self._tracks.get(partition)
        if track is None:
            return None
        done = track.done or track.start
        while track.slots and (track.slots[0].acked or track.slots[0].next_offset <= done):
            done = track.done = max(done, track.slots.popleft().next_offset)
        return track.done

    def in_flight(self) -> int:
        """Chunks delivered and not yet acknowledged, over all partitions."""
        return sum(not slot.acked for track in self._tracks.values() for slot in track.slots)
