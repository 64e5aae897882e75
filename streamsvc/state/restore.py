"""Taking partitions over: open them in the log, then read what the log says their state is."""

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

__all__ = ["Restored", "opened_since", "restore_partitions", "restore_progress"]

log = structlog.get_logger(__name__)

PROGRESS_S = 2.0
"""Seconds between two log lines of a restore."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A partition as its log has it, not resumed yet; `end` is None where nobody ever committed."""

    state: ViewPartition
    end: End | None
    trimming: Trimming


class _Reading:
    """One partition's restore under way: chunks are loaded in a thread, one at a time."""

    def __init__(self, state: ViewPartition) -> None:
        self.state = state
        self.restorer = Restorer()
        self.next_offset = 0
        self.tiles = 0
        self._loading: asyncio.Future[None] | None = None

    async def take(self, chunk: Chunk) -> None:
        """Load a chunk while the next one is fetched."""
        await self.loaded()
        self.next_offset = chunk.next_offset
        self._loading = asyncio.ensure_future(asyncio.to_thread(self._load, chunk))

    async def loaded(self) -> None:
        if self._loading is not None:
            await self._loading

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


async def restore_partitions(
    settings: Settings,
    producer: BatchProducer,
    changelog: str,
    owner: str,
    incarnation: int,
    begins: Mapping[int, int],
    make: Callable[[int], ViewPartition],
) -> dict[int, Restored]:
    """Restore partitions of one changelog topic: those in `begins`, with where their logs begin.

    Appends and awaits an open record for each before reading, so that nothing an older owner still
    writes can be part of what is read. `make` gives a partition without state. Says how far it is
    if it takes long. Raises IntegrityError for a log that lost its beginning.
    """
    value = encode_open(owner, incarnation)
    opened = [await producer.send(changelog, p, [(None, value, ())]) for p in begins]
    offsets = await asyncio.gather(*opened)
    total = sum(at or 0 for at in offsets) - sum(begins.values()) + len(begins)
    while True:
        try:
            return await _read(settings, changelog, owner, total, {p: make(p) for p in begins})
        except RecordsDeletedError:
            # Whoever had the partition before us has just trimmed it. What is left is whole.
            log.info("restore_begins_again", changelog=changelog)


async def _read(
    settings: Settings,
    changelog: str,
    owner: str,
    total: int,
    states: Mapping[int, ViewPartition],
) -> dict[int, Restored]:
    readings = {partition: _Reading(state) for partition, state in states.items()}
    started = said = time.monotonic()
    read = 0
    try:
        async for chunk in read_to_end(settings, changelog, dict.fromkeys(states, EARLIEST)):
            await readings[chunk.partition].take(chunk)
            read += len(chunk)
            if time.monotonic() - said >= PROGRESS_S:
                said = time.monotonic()
                tiles = sum(each.tiles for each in readings.values())
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
