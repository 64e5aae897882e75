"""A built state partition into its changelog, as one commit of a worker that stopped right after.

Nobody else writes there: the number in the topic's name is reserved. Two backfills that build the
same are told apart by order, as workers are: whose records do not follow one another gives up.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence

from streamsvc.agents.backfill.tiles import Task, merged
from streamsvc.agents.topology import RunningView
from streamsvc.errors import IntegrityError
from streamsvc.events.lateness import NO_WATERMARK
from streamsvc.features.engine import EngineStats, WindowState
from streamsvc.settings import Settings
from streamsvc.state.blocks import unpack_block
from streamsvc.state.changelog import Commit, End, encode_commit, encode_open
from streamsvc.state.incarnations import Handover
from streamsvc.state.progress import Progress, ProgressKey
from streamsvc.transport.admin import Admin
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import read_to_end

__all__ = ["commit_state", "complete_partitions", "write_progress"]


async def commit_state(
    settings: Settings, task: Task, running: RunningView, partition: int, parts: Sequence[bytes]
) -> EngineStats:
    """Merge what units have made for a state partition, and append it; its size.

    Raises IntegrityError if another backfill of the view writes there, too.
    """
    state = merged(task, partition, parts)
    owner = uuid.uuid4().hex
    tiles, nothing = state.snapshot(), WindowState(running.spec).snapshot()
    end = _end(settings, task, running, partition)
    commit = Commit(tiles, nothing, begins_round=False, ends_round=False, end=end)
    records = encode_commit(owner, commit, running.spec)
    producer = BatchProducer(settings)
    await producer.start()
    try:
        value = encode_open(owner, running.incarnation)
        first = await (await producer.send(running.changelog, partition, [(None, value, ())]))
        for record in records:
            sent = await producer.send(running.changelog, partition, [(None, record, ())])
        last = await sent
    finally:
        await producer.stop()
    assert first is not None
    assert last is not None
    if last - first != len(records):
        raise IntegrityError(
            f"Something else has written to {running.changelog}/{partition} meanwhile: another "
            f"backfill of {task.view.name} is running. Let that one finish, or stop it and begin "
            "again."
        )
    return state.stats()


def _end(settings: Settings, task: Task, running: RunningView, partition: int) -> End:
    clock, now_ms = task.clock(partition), time.time_ns() // 1_000_000
    vector = task.vector(partition)
    if running.shuffle is None:
        mark = task.handover.watermarks[partition]
        return End(vector[partition], mark, clock, now_ms, False, vector)
    # Of what is in the shuffle until now nothing is for an incarnation that nobody runs.
    applied = Admin(settings).end_offsets(running.shuffle)[partition]
    return End(applied, NO_WATERMARK, clock, now_ms, False, vector)


async def complete_partitions(settings: Settings, changelog: str) -> set[int]:
    """State partitions whose commit is complete: an end is the last of their records."""
    admin = Admin(settings)
    begins, ends = admin.start_offsets(changelog), admin.end_offsets(changelog)
    last = {p: end - 1 for p, end in ends.items() if end > begins[p]}
    found = set()
    async for chunk in read_to_end(settings, changelog, last):
        for i in range(len(chunk)):
            value = chunk.value(i)
            if value is not None and unpack_block(value).kind == "end":
                found.add(chunk.partition)
    return found


async def write_progress(
    settings: Settings, topic: str, running: RunningView, handover: Handover
) -> None:
    """Let the sources of a shuffled view go on at the hand-over.

    After all of its key groups are complete: a group without its state would miss what is skipped.
    """
    records = []
    for partition, offset in handover.offsets.items():
        key = ProgressKey(running.view.name, running.incarnation, partition)
        mark = handover.watermarks[partition]
        records.append((key.encode(), Progress(offset, mark, mark, False).encode(), ()))
    producer = BatchProducer(settings)
    await producer.start()
    try:
        await (await producer.send(topic, 0, records))
    finally:
        await producer.stop()
