"""What a feature worker in this process was doing, for the report of a test that waited in vain."""

from __future__ import annotations

import asyncio
import io
import sys
import traceback

from streamsvc.agents.features import FeatureWorker

__all__ = ["standstill"]


def standstill(worker: FeatureWorker) -> str:
    """How far each partition is at every stage, and where all tasks and threads are."""
    consumer, holdings = worker.app.consumer, worker._holdings
    client = getattr(consumer._thread, "_consumer", None)
    generation = worker._intake.generation, worker.app.consumer_generation_id
    said = [
        f"worker {worker.owner}: generation {generation[0]} of {generation[1]}",
        f"epoch {consumer._epoch} of {consumer._thread.epoch}, sought {consumer._resume}",
        f"flow {consumer.flow_active}, active {consumer._active_partitions}",
        f"paused {consumer._paused_partitions}, full {consumer._buffered_partitions}",
        f"waits in {worker._inbox._waiting}, echoes {len(worker._turns._echoes)}",
        f"under way { ({topic: each._under_way for topic, each in worker._senders.items()}) }",
        f"writing {worker._flusher._writing}, committing {worker._flusher._committing}",
        f"updates {len(worker._updates._offered)} offered, {len(worker._updates._under_way)} sent",
    ]
    for at in client.assignment() if client is not None else ():
        known = client._subscription.subscription.assignment.state_value(at)
        held = holdings.lanes.get(tuple(at))
        states = {
            key: (state.applied, state.committed)
            for (key, partition), (running, state) in holdings.views.items()
            if (running.log, partition) == tuple(at)
        }
        said.append(
            f"{at.topic}/{at.partition}: broker {known.highwater}, fetched {known._position}, "
            f"delivered {consumer.ledger.expected(tuple(at))}, "
            f"read {held.lead.next_offset if held else holdings.read.get(tuple(at))}, "
            f"applied and committed {states}"
        )
    stacks = io.StringIO()
    threads = () if client is None else (consumer._thread.thread_loop,)
    for loop in (asyncio.get_running_loop(), *threads):
        for task in asyncio.all_tasks(loop):
            task.print_stack(limit=4, file=stacks)
    for number, frame in sys._current_frames().items():
        stacks.write(f"thread {number}\n{''.join(traceback.format_stack(frame, limit=4))}")
    return "\n".join([*said, stacks.getvalue()])
