"""A scoring worker that runs on while its definitions change: on real Kafka and a real store.

Only the registry is played: the end-to-end test has a real one.
"""

from __future__ import annotations

import asyncio
import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from support.scoring import plan, request
from support.scoring_world import PARTITIONS, World, now_ms, remove, some, where

from streamsvc.agents.preparing import prepare_topology
from streamsvc.agents.run_scoring import run_services
from streamsvc.agents.scoring import ScoringWorker
from streamsvc.agents.scoring_fleet import ScoringFleet
from streamsvc.agents.scoring_targets import scoring_targets
from streamsvc.errors import UnavailableError
from streamsvc.monitor.metrics import ScoringMetrics
from streamsvc.store.markers import Marker, write_marker
from streamsvc.transport.admin import TopicSpec

PATIENCE_S = 60


class Applied:
    """Stands for the definitions of a repo, as a worker watches them."""

    def __init__(self, first):
        self.plan, self.version, self.seen = first, 0, (0, None)
        self.beside = lambda: None

    def watch_beside(self, beside):
        self.beside = beside

    def look(self):
        return self.version, self.beside()

    def load(self, look):
        return self.plan

    def apply(self, changed):
        self.plan, self.version = changed, self.version + 1


class Changing(World):
    @contextlib.asynccontextmanager
    async def serving(self):
        settings = self.settings.model_copy(
            update={"model_server": "in-process", "definitions_interval_s": 0.1}
        )
        self.applied, stop = Applied(self.plan), asyncio.Event()
        task = asyncio.create_task(
            run_services(settings, self.plan, self.repository, stop=stop, definitions=self.applied)
        )
        try:
            yield task
        finally:
            stop.set()
            await task

    def changed(self, features=None, hashes=None, **route):
        """The plan with another route, other features, or other definitions of its views."""
        service = replace(self.service, route=replace(self.route, **route))
        if features is not None:
            service = replace(
                service, features=tuple(f for f in service.features if str(f) in features)
            )
        views = tuple(
            replace(v, definition_hash=(hashes or {}).get(v.name, v.definition_hash))
            for v in self.plan.views
        )
        return replace(self.plan, services=(service,), views=views)

    def moved(self, topic, **route):
        """The service's target with requests on another topic, which is made."""
        self.admin.ensure([TopicSpec(topic, PARTITIONS)])
        plan = self.changed(requests=topic, **route)
        (service,) = plan.services
        service = replace(service, request=replace(service.request, topic=topic))
        (target,) = scoring_targets(
            self.settings, replace(plan, services=(service,)), self.repository, ()
        )
        return target

    async def answered(self, topic, n):
        """Return once so many more requests on this topic are answered."""

        def of_topic(records):
            return sum(r["source"]["topic"] == topic for r in records)

        found = await self.predictions(0)
        want = of_topic(found) + n
        self.send([request(*a, now_ms()) for a in some(n)], topic=topic)
        while of_topic(found) < want:
            found = await self.predictions(len(found) + 1)

    async def asks(self, n, seed):
        """All predictions, after so many more requests."""
        self.asked = getattr(self, "asked", 0) + n
        self.send([request(*a, now_ms()) for a in some(n, seed=seed)])
        return await self.predictions(self.asked)

    async def until_changed(self, decision):
        """Ask until all partitions answer like this, which they then do for ever."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = await self.asks(PARTITIONS, self.asked)
                assert len({where(r) for r in found}) == len(found) == self.asked
                by_partition = decisions(found)
                if all(answers[-1] == decision for answers in by_partition.values()):
                    return

    async def until_said(self, capsys, text):
        async with asyncio.timeout(PATIENCE_S):
            said = ""
            while text not in said:
                await asyncio.sleep(0.05)
                said += "".join(capsys.readouterr())  # logs go to stderr once a command has run

    def serve(self, view, incarnation):
        """As a feature worker does that has caught up."""
        marker = Marker(incarnation, {}, now_ms(), self.started_ms)
        for partition in range(max(PARTITIONS, self.settings.key_groups)):
            write_marker(self.client, self.plan.project, view, partition, marker)


@pytest.fixture
def w(stack, tmp_path):
    settings = stack.settings.model_copy(update={"served_log": False})
    made = plan(stack.unique("changing") + ".", deadline_ms=600_000, freshness_wait_ms=0)
    world = Changing(settings, made, tmp_path / "models")
    yield world
    remove(world)


def decisions(found):
    """Partition -> decisions by offset."""
    order = sorted(found, key=where)
    return {
        p: [r["decision"] for r in order if r["source"]["partition"] == p]
        for p in range(PARTITIONS)
    }


@pytest.mark.timeout(180)
async def test_a_changed_service_takes_effect_between_two_batches(w):
    await prepare_topology(w.settings, w.plan)
    async with w.serving():
        assert {r["decision"] for r in await w.asks(30, 1)} == {True, False}
        w.applied.apply(w.changed(threshold=-1.0))
        await w.until_changed(True)
        # Its views are begun anew: the definition before goes on until they serve everywhere.
        anew = w.changed(threshold=2.0, hashes={"cards": "1"})
        await prepare_topology(w.settings, anew, running=True)
        w.applied.apply(anew)
        for seed in range(5):
            found = await w.asks(30, seed)
        assert all(answers[-20:] == [True] * 20 for answers in decisions(found).values())
        w.serve("cards", 2)
        await w.until_changed(False)


@pytest.mark.timeout(180)
async def test_a_model_that_no_longer_fits_is_refused_until_there_is_another(w, capsys):
    await prepare_topology(w.settings, w.plan)
    async with w.serving() as task:
        await w.asks(30, 1)
        features = [str(f) for f in w.service.features if str(f) != "ratios:ratio"]
        w.applied.apply(w.changed(threshold=-1.0, features=features))
        await w.until_said(capsys, "ratios:ratio is missing")
        found = await w.asks(60, 2)
        assert {r["decision"] for r in found} == {True, False}
        assert not task.done()


@pytest.mark.timeout(180)
async def test_a_service_answers_where_it_was_until_it_can_move(w):
    """Its new topic's worker finds no Kafka; then it moves, and moves on exactly once.

    As a static member, which is in its group still when it moves.
    """
    settings = w.settings.model_copy(update={"model_server": "in-process"})
    nowhere = settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:1"})
    metrics, stop, chosen = ScoringMetrics(), asyncio.Event(), [settings]
    (first,) = scoring_targets(settings, w.plan, w.repository, ())
    second, third = (f"{w.route.requests}.{i}" for i in (2, 3))
    with ThreadPoolExecutor(4) as threads:
        fleet = ScoringFleet(
            lambda target: ScoringWorker(
                chosen[0], w.plan.project, target, metrics, threads, "worker-1"
            ),
            stop,
        )
        await fleet.prepare(first)
        running = asyncio.create_task(fleet.run([]))
        try:
            await w.answered(w.route.requests, 9)
            chosen[0] = nowhere
            with pytest.raises(UnavailableError):
                await fleet.take_up(w.moved(second))
            await w.answered(w.route.requests, 9)
            chosen[0] = settings
            for topic in (second, third):
                await fleet.take_up(w.moved(topic, delivery="exactly_once"))
                await w.answered(topic, 9)
            assert not running.done()
        finally:
            stop.set()
            await running
    w.admin.delete([second, third])
