"""Taking partitions over: open them in the log, then read what the log says their state is.

Reading may have begun long before, and followed the log since: what a log says is folded in its
order, so that only the rest is left to be read up to the open record.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from streamsvc.errors import IntegrityError
from streamsvc.settings import Settings
from streamsvc.state.blocks import unpack_block
from streamsvc.state.changelog import End, Restorer, encode_open
from streamsvc.state.partition import ViewPartition
from streamsvc.state.progress import Progress, ProgressKey, fold_progress
from streamsvc.state.trimming import Trimming
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import EARLIEST, RecordsDeletedError, read_to_end

__all__ = ["Reading", "Restored", "opened_since", "restore_partitions", "restore_progress"]

log = structlog.get_logger(__name__)

PROGRESS_S = 2.0
"""Seconds between two log lines of a restore."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A partition as its log has it, not resumed yet; `end` is None where nobody ever committed."""

    state: ViewPartition
    end: End | None
    trimming: Trimming
    records: int
    """Read by this restore: without what was there when it began."""
    tiles: int
    """In those records."""


class Reading:
    """A partition's state as far as its log has been read; whoever reads on goes on from there."""

    def __init__(self, state: ViewPartition) -> None:
        self.state = state
        self.restorer = Restorer()
        self.next_offset = EARLIEST
        self.records = 0
        """Read so far, and the tiles in them."""
        self.tiles = 0
        self.stats = state.state.stats()
        """Size of the state, at the end of the last chunk that is loaded."""
        self._loading: asyncio.Future[None] | None = None

    def take(self, chunk: Chunk) -> None:
        """Begin to load the next chunk, in a thread; the one before is `loaded`.

        Raises RecordsDeletedError if there were records before it that nobody has read.
        """
        if EARLIEST != self.next_offset < chunk.first_offset:
            raise RecordsDeletedError(
                f"{chunk.topic}/{chunk.partition} was trimmed up to {chunk.first_offset}, and read "
                f"up to {self.next_offset}."
            )
        self.next_offset = chunk.next_offset
        self._loading = asyncio.ensure_future(asyncio.to_thread(self._load, chunk))

    async def loaded(self) -> None:
        """Return when all that was taken is in the state."""
        if self._loading is not None:
            await asyncio.shield(self._loading)

    def _load(self, chunk: Chunk) -> None:
        for i in range(len(chunk)):
            value = chunk.value(i)
            if value is None:
                continue
            try:
                for tiles in self.restorer.feed(unpack_block(value)):
                    self.state.load(tiles)
                    self.tiles += len(tiles)
            except IntegrityError as error:
                view = self.state.view.name
                raise IntegrityError(
                    f"{chunk.topic}/{chunk.partition}, offset {chunk.offsets[i]}: {error} "
                    f"`streamsvc store rebuild --from-topic {view}` begins the view anew."
                ) from error
        self.records += len(chunk)
        self.stats = self.state.state.stats()


async def restore_partitions(
    settings: Settings,
    producer: BatchProducer,
    changelog: str,
    owner: str,
    incarnation: int,
    begins: Mapping[int, int],
    make: Callable[[int], ViewPartition],
    begun: Mapping[int, Reading] | None = None,
) -> dict[int, Restored]:
    """Restore partitions of one changelog topic: those in `begins`, with where their logs begin.

    Appends and awaits an open record for each before reading, so that nothing an older owner still
    writes can be part of what is read. `make` gives a partition without state; those in `begun` are
    read on from where they are. Says how far it is if it takes long.
    Raises IntegrityError for a log that lost its beginning.
    """
    value = encode_open(owner, incarnation)
    opened = [await producer.send(changelog, p, [(None, value, ())]) for p in begins]
    offsets = await asyncio.gather(*opened)
    ends = {p: (at or 0) + 1 for p, at in zip(begins, offsets, strict=True)}
    begun = begun or {}
    while True:
        readings = {p: begun.get(p) or Reading(make(p)) for p in begins}
        total = sum(ends[p] - max(begins[p], each.next_offset) for p, each in readings.items())
        try:
            return await _read(settings, changelog, owner, total, readings)
        except RecordsDeletedError:
            # Whoever had the partition before us has just trimmed it. What is left is whole.
            log.info("restore_begins_again", changelog=changelog)
            begun = {}


async def _read(
    settings: Settings,
    changelog: str,
    owner: str,
    total: int,
    readings: Mapping[int, Reading],
) -> dict[int, Restored]:
    starts = {partition: each.next_offset for partition, each in readings.items()}
    before = {partition: (each.records, each.tiles) for partition, each in readings.items()}
    started = said = time.monotonic()
    read = 0
    try:
        async for chunk in read_to_end(settings, changelog, starts):
            await readings[chunk.partition].loaded()
            readings[chunk.partition].take(chunk)
            read += len(chunk)
            if time.monotonic() - said >= PROGRESS_S:
                said = time.monotonic()
                tiles = sum(each.tiles - before[p][1] for p, each in readings.items())
                log.info(
                    "restoring",
                    changelog=changelog,
                    share=f"{min(1.0, read / max(1, total)):.0%}",
                    tiles=tiles,
                    tiles_per_s=round(tiles / (said - started)),
                )
    finally:
        await asyncio.gather(*(each.loaded() for each in readings.values()))
    return {
        partition: Restored(
            each.state,
            each.restorer.end,
            Trimming(each.next_offset, superseded=each.restorer.owner != owner),
            each.records - before[partition][0],
            each.tiles - before[partition][1],
        )
        for partition, each in readings.items()
    }


async def opened_since(
    settings: Settings, changelog: str, owner: str, known: Mapping[int, int]
) -> dict[int, tuple[int, bool]]:
    """Partition -> (where its log ends, whether somebody else opened it at or after `known`)."""
    found = {partition: (offset, False) for partition, offset in known.items()}
    async for chunk in read_to_end(settings, changelog, known):
        _, opened = found[chunk.partition]
        for i in range(len(chunk)):
            value = chunk.value(i)
            if value is not None:
                block = unpack_block(value)
                opened = opened or (block.kind == "open" and block.meta["owner"] != owner)
        found[chunk.partition] = (chunk.next_offset, opened)
    return found


async def restore_progress(settings: Settings, topic: str) -> dict[ProgressKey, Progress]:
    """The newest shuffle position of every view and source partition."""
    records: list[tuple[bytes | None, bytes | None]] = []
    async for chunk in read_to_end(settings, topic, {0: 0}):
        records += [(chunk.key(i), chunk.value(i)) for i in range(len(chunk))]
    return fold_progress(records)
