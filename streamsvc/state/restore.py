"""Taking partitions over: open them in the log, then read what the log says their state is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamsvc.features.tile_batch import TileBatch
from streamsvc.settings import Settings
from streamsvc.state.blocks import unpack_block
from streamsvc.state.changelog import End, Restorer, encode_open
from streamsvc.state.progress import Progress, ProgressKey, fold_progress
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import read_to_end

__all__ = ["restore_partitions", "restore_progress"]


async def restore_partitions(
    settings: Settings,
    producer: BatchProducer,
    changelog: str,
    owner: str,
    incarnations: Mapping[int, int],
    load: Callable[[int, TileBatch], None],
) -> dict[int, End | None]:
    """Restore these partitions (partition -> incarnation) of one changelog topic.

    Appends and awaits an open record for each before reading, so that nothing an older owner still
    writes can be part of what is read. `load(partition, tiles)` is called for every complete commit
    in order. Returns the newest end marker of each partition, None where there never was one.
    """
    for partition, incarnation in incarnations.items():
        value = encode_open(owner, incarnation)
        await (await producer.send(changelog, partition, [(None, value, ())]))
    restorers = {partition: Restorer() for partition in incarnations}
    async for chunk in read_to_end(settings, changelog, dict.fromkeys(incarnations, 0)):
        restorer = restorers[chunk.partition]
        for i in range(len(chunk)):
            value_i = chunk.value(i)
            if value_i is None:
                continue
            for tiles in restorer.feed(unpack_block(value_i)):
                load(chunk.partition, tiles)
    return {partition: restorer.end for partition, restorer in restorers.items()}


async def restore_progress(settings: Settings, topic: str) -> dict[ProgressKey, Progress]:
    """The newest shuffle position of every view and source partition."""
    records: list[tuple[bytes | None, bytes | None]] = []
    async for chunk in read_to_end(settings, topic, {0: 0}):
        records += [(chunk.key(i), chunk.value(i)) for i in range(len(chunk))]
    return fold_progress(records)
