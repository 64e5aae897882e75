"""Predictions exactly once: workers killed, paused for longer than their session, joining, leaving.

Requests come all the while. In the end a reader of committed records sees one prediction, one
vector in the served log and one dead letter for each that must have one.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections import Counter

from support.scoring import plan, request
from support.scoring_world import World, dead_letters, now_ms, remove, served_log, some, where

from streamsvc.transport.groups import Groups

PATIENCE_S = 180
ROUND = 30
BAD_EVERY = 15


class Load:
    """Requests, some of them no requests, for as long as the block lasts."""

    def __init__(self, world):
        self.world = world
        self.good = self.bad = self._seed = 0

    @contextlib.asynccontextmanager
    async def running(self):
        stop = asyncio.Event()
        task = asyncio.create_task(self._run(stop))
        yield
        stop.set()
        await task

    async def _run(self, stop):
        while not stop.is_set():
            self._seed += 1
            values = [request(*a, now_ms()) for a in some(ROUND, seed=self._seed)]
            values[::BAD_EVERY] = [b"{"] * len(values[::BAD_EVERY])
            self.bad += len(values[::BAD_EVERY])
            self.good += len(values) - len(values[::BAD_EVERY])
            await asyncio.to_thread(self.world.send, values)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), 0.1)


async def answered(w, more):
    """Wait until so many more requests of every partition have been passed."""
    group = f"streamsvc.{w.plan.project}.scoring.{w.service.name}"
    topic = w.route.requests
    wanted = {
        p: end + more for p, end in (await asyncio.to_thread(w.admin.end_offsets, topic)).items()
    }
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = await asyncio.to_thread(Groups(w.admin).committed, group, topic)
            if all(found.get(p, (0, ""))[0] >= at for p, at in wanted.items()):
                return
            await asyncio.sleep(0.1)


async def test_every_request_is_answered_once_whatever_happens_to_workers(stack, tmp_path):
    w = World(
        stack.settings,
        plan(stack.unique("chaos") + ".", deadline_ms=600_000, delivery="exactly_once"),
        tmp_path / "models",
    )
    quick = {"session_timeout_ms": 2_000, "heartbeat_interval_ms": 200}
    load = Load(w)
    async with contextlib.AsyncExitStack() as workers:

        async def start(name, **more):
            process = w.process(tmp_path / f"{name}.log", **quick, **more)
            worker = await workers.enter_async_context(process)
            await worker.started()
            return worker

        static, other = await asyncio.gather(start("static", instance_id="static"), start("other"))
        async with load.running():
            await answered(w, 60)
            other.send_signal(signal.SIGKILL)
            await answered(w, 60)
            third = await start("third")
            await answered(w, 60)

            # A zombie: everything is somebody else's by the time that it goes on.
            third.send_signal(signal.SIGSTOP)
            await answered(w, 60)
            third.send_signal(signal.SIGCONT)
            await answered(w, 60)

            static.send_signal(signal.SIGKILL)
            await answered(w, 60)
            static = await start("static", instance_id="static")
            third.send_signal(signal.SIGTERM)
            assert await third.wait() == 0
            await answered(w, 60)
        await answered(w, 0)
        static.send_signal(signal.SIGTERM)
        assert await static.wait() == 0

    found = await w.predictions(load.good)
    again = {place: n for place, n in Counter(map(where, found)).items() if n > 1}
    assert not again
    assert len(found) == load.good
    assert sorted(await served_log(w)) == sorted(r["prediction_id"] for r in found)
    letters = await dead_letters(w)
    assert len(letters) == len(set(letters)) == load.bad
    remove(w)
