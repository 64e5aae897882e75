"""Versions of a model that differ, live traffic with labels, and what came of every request."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
import orjson
import xgboost
from confluent_kafka import Producer
from support.processes import Worker
from support.scoring import FEATURES, REQUESTS, plan
from support.scoring_world import CARDS, PARTITIONS, SHOPS, World, now_ms

from streamsvc.agents.rollouts import append_revision, live_workers, read_rollouts, standing
from streamsvc.agents.run_rollouts import run_rollouts
from streamsvc.definitions.plan import EventField, EventSchema, Plan
from streamsvc.errors import CheckFailedError, UnavailableError
from streamsvc.models.golden import choose_golden
from streamsvc.models.histogram import histogram
from streamsvc.models.reconciler import make_ready
from streamsvc.models.rollout import Candidate, Revision, Words, start
from streamsvc.models.rollout_policy import Policy, fields_of
from streamsvc.models.triton_repository import configured_versions, publish, remove, serve
from streamsvc.transport.admin import TopicSpec
from streamsvc.transport.reader import EARLIEST, read_to_end

PATIENCE_S = 120
LATER = 12
"""Calls after which a model goes bad: those that prove it are behind it by then."""

BAD = {
    "sleeps 200 ms": "time.sleep(0.2)",
    "sleeps a second": "time.sleep(1.0)",
    "raises": "raise RuntimeError('the model raises')",
    "answers NaN": "return _nothing(requests)",
}
_WRAP = """

import time


def _nothing(requests):
    sizes = [len(pb_utils.get_input_tensor_by_name(r, "input__0").as_numpy()) for r in requests]
    nan = [np.full((n, 1), np.nan, np.float32) for n in sizes]
    return [pb_utils.InferenceResponse([pb_utils.Tensor("output__0", each)]) for each in nan]


class TritonPythonModel(TritonPythonModel):
    calls = 0

    def execute(self, requests):
        self.calls += 1
        if self.calls > {after}:
            {bad}
        return super().execute(requests)
"""


def labelled(tag: str, **route: object) -> Plan:
    """The plan of support.scoring, with a topic of labels, by entity and time."""
    found = plan(tag, **route)
    fields = tuple(f for f in REQUESTS.schema.fields if f.name != "amount")
    outcomes = replace(
        REQUESTS,
        name="outcomes",
        topic=f"{tag}outcomes",
        schema=EventSchema((*fields, EventField("bad", ("bad",), "bool")), "at", "ms"),
    )
    (service,) = found.services
    assert service.route is not None
    told = replace(service.route, labels=outcomes.topic, label_field="bad", label_window_ms=60_000)
    return replace(
        found,
        sources=(*found.sources, outcomes),
        services=(replace(service, route=told, labels=outcomes),),
    )


@dataclass
class Rollouts(World):
    """A service whose champion is fair: version 3 of the model is there as well, and not used."""

    sent: int = field(default=0, init=False)
    newest: int = field(default=0, init=False)
    """Number of the last version; numbers are not given twice."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.admin.ensure([TopicSpec(self.route.labels, PARTITIONS)])
        self.newest = self.card.version
        self.publish("fair")

    # --- models ----------------------------------------------------------------------------

    def chances(self, matrix: np.ndarray) -> np.ndarray:
        """How likely the label is true, by the sums of shop and card."""
        shop, card = np.nan_to_num(matrix[:, 0]), np.nan_to_num(matrix[:, 1])
        return 1 / (1 + np.exp(-(0.9 * (card - 1.5) + 0.9 * (shop + 1))))

    def vectors(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """What requests have: the limits are stale and so missing."""
        cards, shops = (
            np.array([self.sums(v)[e] for e in es], float)
            for v, es in (("cards", CARDS), ("shops", SHOPS))
        )
        matrix = np.full((n, len(FEATURES)), np.nan, np.float32)
        matrix[:, 0] = shops[rng.integers(0, len(SHOPS), n)]
        matrix[:, 1] = cards[rng.integers(0, len(CARDS), n)]
        matrix[:, 3] = np.where(np.isnan(matrix[:, 1]), 0, 2)
        return matrix

    def publish(
        self, quality: str, behaviour: str | None = None, *, after: int | None = None
    ) -> int:
        """A new version: `fair` sees the shop alone, `better` all, `worse` a coin; and how its
        copy on the model server behaves after some calls."""
        rng = np.random.default_rng(3)
        matrix = self.vectors(rng, 6_000)
        labels = rng.random(len(matrix)) < self.chances(matrix)
        if quality == "worse":
            labels = rng.permutation(labels)
        seen = matrix.copy()
        if quality == "fair":
            seen[:, [1, 3]] = np.nan
        booster = xgboost.train(
            {"objective": "binary:logistic", "nthread": 1, "max_depth": 4, "eta": 0.3},
            xgboost.DMatrix(seen, labels),
            12,
        )
        scores = booster.inplace_predict(matrix)
        version = self.newest = self.newest + 1
        card = msgspec.structs.replace(
            self.card,
            model=self.route.model,
            version=version,
            golden=choose_golden(matrix, booster.inplace_predict),
            score=histogram(scores),
        )
        where = publish(self.repository, card, bytes(booster.save_raw("ubj")))
        if behaviour == "has a corrupt file":
            (where / "xgboost.ubj").write_bytes(b"{L" + bytes(200))
        elif behaviour is not None:
            source = where / "model.py"
            source.write_text(
                source.read_text()
                + _WRAP.format(after=LATER if after is None else after, bad=BAD[behaviour])
            )
        return version

    @property
    def card(self):
        from streamsvc.models.artifact import load_card

        return load_card(self.version)

    # --- rollouts --------------------------------------------------------------------------

    async def roll_out(self, version: int, policy: Policy) -> Revision:
        """As `streamsvc rollout start` does, but for what it refuses: that is for workers here."""
        with contextlib.suppress(CheckFailedError):
            await asyncio.to_thread(
                make_ready, self.settings, self.repository, self.route.model, [version]
            )
        log = await read_rollouts(self.settings, self.plan.project)
        now = standing(log, self.service.name, self.repository / self.route.model)
        mode = "shadow" if policy.shadow_checks else "canary"
        weight = 100.0 if mode == "shadow" else policy.step_weight
        revision = start(
            now,
            Candidate(version, mode, weight),
            Words("test", now_ms(), "to see"),
            salt=str(version),
            policy=fields_of(policy),
        )
        await append_revision(self.settings, self.plan.project, revision)
        return revision

    async def started(self, *workers: Worker) -> None:
        """Return once scoring workers have said what they run, and share the requests."""
        for worker in workers:
            await worker.started()
        whose = self.settings, self.plan.project, self.service.name
        async with asyncio.timeout(PATIENCE_S):
            while True:
                log = await read_rollouts(self.settings, self.plan.project)
                said = log.applied.get(self.service.name, {})
                with contextlib.suppress(UnavailableError):  # a broker that has just started
                    live = await asyncio.to_thread(live_workers, *whose)
                    if said.keys() == live and len(live) == len(workers):
                        return
                await asyncio.sleep(0.1)

    async def applied(self, revision: Revision, workers: int) -> dict[str, int]:
        """Worker -> milliseconds until a revision ran there, once it does on so many."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                log = await read_rollouts(self.settings, self.plan.project)
                said = log.applied.get(self.service.name, {}).values()
                found = {a.worker: a for a in said if a.running >= revision.revision}
                if len(found) == workers:
                    return {name: a.at_ms - revision.at_ms for name, a in sorted(found.items())}
                await asyncio.sleep(0.1)

    def delete(self, version: int) -> None:
        """As `streamsvc models delete` does; Triton lets go of it when it next loads this model."""
        left = {*configured_versions(self.repository / self.route.model)} - {version}
        serve(self.repository, self.route.model, left)
        remove(self.repository, self.route.model, version)

    async def history(self) -> list[Revision]:
        log = await read_rollouts(self.settings, self.plan.project)
        return log.revisions.get(self.service.name, [])

    async def until(self, holds: Callable[[list[Revision]], bool]) -> list[Revision]:
        """The revisions, once something holds of them."""
        async with asyncio.timeout(PATIENCE_S):
            while not holds(found := await self.history()):
                await asyncio.sleep(0.2)
            return found

    async def until_steady(self, after: int) -> list[Revision]:
        """The revisions from that one on, once the last of them is steady."""
        found = await self.until(
            lambda held: held[-1].revision >= after and held[-1].status == "steady"
        )
        return [revision for revision in found if revision.revision >= after]

    @contextlib.asynccontextmanager
    async def controller(self, **settings):
        """A rollout worker in this process."""
        stop = asyncio.Event()
        chosen = self.settings.model_copy(update=settings)
        task = asyncio.create_task(run_rollouts(chosen, self.plan, self.repository, stop=stop))
        try:
            yield task
        finally:
            stop.set()
            await task

    # --- traffic ---------------------------------------------------------------------------

    @contextlib.asynccontextmanager
    async def traffic(self, rate: float):
        """Requests, and what really happened right behind them, until the block ends."""
        stop = threading.Event()
        thread = threading.Thread(target=self._produce, args=(rate, stop.is_set), daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            await asyncio.to_thread(thread.join)

    def _produce(self, rate: float, stopped: Callable[[], bool]) -> None:
        producer = Producer(
            {"bootstrap.servers": self.settings.kafka_bootstrap_servers, "linger.ms": 2}
        )
        rng = np.random.default_rng(self.sent + 1)
        began, first = time.monotonic(), self.sent
        while not stopped():
            due = first + int(rate * (time.monotonic() - began))
            while self.sent < due:
                self._send_one(producer, rng)
            producer.poll(0)
            time.sleep(0.005)
        assert producer.flush(60) == 0

    def _send_one(self, producer: Producer, rng: np.random.Generator) -> None:
        card, shop = CARDS[rng.integers(len(CARDS))], SHOPS[rng.integers(len(SHOPS))]
        matrix = np.array([[self.sums("shops")[shop], self.sums("cards")[card]]], float)
        about = {"card": card, "shop_id": shop, "at": now_ms()}
        outcome = {**about, "bad": bool(rng.random() < self.chances(matrix)[0])}
        partition = self.sent % PARTITIONS
        producer.produce(
            self.route.requests, orjson.dumps({**about, "amount": 5.0}), partition=partition
        )
        producer.produce(self.route.labels, orjson.dumps(outcome), partition=partition)
        self.sent += 1


@dataclass(frozen=True)
class Answered:
    """Predictions, as columns."""

    version: np.ndarray
    variant: np.ndarray
    fallback: np.ndarray
    """Empty where the model server answered."""
    took_ms: np.ndarray
    """From a request's event time, which is when it was sent, to its prediction."""
    asked_ms: np.ndarray
    repeats: int = 0
    """Further answers to requests that have one, which workers that joined may give."""

    def take(self, which: np.ndarray) -> Answered:
        """Some of them."""
        return Answered(
            self.version[which],
            self.variant[which],
            self.fallback[which],
            self.took_ms[which],
            self.asked_ms[which],
        )

    def late(self, deadline_ms: int) -> int:
        """Requests that nobody answered by then, or only with the default."""
        return int(((self.took_ms > deadline_ms) | (self.fallback == "default")).sum())


async def answered(w: Rollouts) -> Answered:
    """The first answer to every request; each must have one."""
    topic, ids = w.route.predictions, set()
    async with asyncio.timeout(PATIENCE_S):
        while len(ids) < w.sent:
            ids, rows = await _answers(w, topic)
    assert len(ids) == w.sent
    first: dict[str, tuple] = {}
    for row in rows:
        first.setdefault(row[0], row)
    columns = list(zip(*first.values(), strict=True))[1:]
    return Answered(*(np.array(column) for column in columns), len(rows) - len(first))


async def _answers(w: Rollouts, topic: str) -> tuple[set[str], list[tuple]]:
    """The ids that have answers, and these, those of a partition in order."""
    rows = []
    ends = await asyncio.to_thread(w.admin.end_offsets, topic)
    async for chunk in read_to_end(w.settings, topic, dict.fromkeys(ends, EARLIEST)):
        for i in range(len(chunk)):
            r = orjson.loads(chunk.value(i))
            asked_ms = r["request_time_ms"]
            what = int(r["model_version"]), r["variant"], r["fallback"] or ""
            took_ms = int(chunk.timestamps[i]) - asked_ms
            rows.append((r["prediction_id"], *what, took_ms, asked_ms))
    return {row[0] for row in rows}, rows


def remove_topics(w: Rollouts) -> None:
    """What `remove` of support.scoring_world does not know."""
    from streamsvc.agents.topic_plan import rollout_topic

    names = [w.route.labels, rollout_topic(w.settings, w.plan.project).name]
    w.admin.delete([name for name in names if w.admin.exists(name)])
