"""Two versions of a model beside each other, on real Kafka, Valkey and Triton."""

from __future__ import annotations

import asyncio

import msgspec
import numpy as np
import pytest
import xgboost
from support.scoring import FEATURES, plan, request, trained
from support.scoring_world import PARTITIONS, World, now_ms, remove, some, where

from streamsvc.agents.rollouts import (
    acknowledged,
    append_revision,
    hear,
    live_workers,
    read_rollouts,
    standing,
)
from streamsvc.models.golden import choose_golden
from streamsvc.models.local_model import LocalModel
from streamsvc.models.rollout import Candidate, Words, promote, start, undo, weigh
from streamsvc.models.triton_control import TritonControl
from streamsvc.models.triton_repository import publish
from streamsvc.scoring.served_log import read_served
from streamsvc.state.topics import served_topic
from streamsvc.transport.reader import EARLIEST, read_to_end

PATIENCE_S = 60
TURNED = FEATURES[::-1]
"""What the second version takes: in another order."""


class Rolled(World):
    """With a version 4 of the model, which takes its features in another order than version 3."""

    def __post_init__(self):
        super().__post_init__()
        rng = np.random.default_rng(5)
        matrix = rng.normal(size=(300, len(TURNED))).astype(np.float32)
        booster = xgboost.train(
            {"objective": "binary:logistic", "nthread": 1},
            xgboost.DMatrix(matrix, matrix[:, 1] > 0),
            5,
        )
        card, _ = trained()
        self.card = msgspec.structs.replace(
            card,
            model=self.route.model,
            version=4,
            features=list(TURNED),
            golden=choose_golden(matrix, booster.inplace_predict),
        )
        self.booster = bytes(booster.save_raw("ubj"))
        self.models = {"3": LocalModel(self.version)}
        self.sent = []

    def register(self):
        """Version 4, while version 3 is running."""
        second = publish(self.repository, self.card, self.booster)
        self.models["4"] = LocalModel(second)
        return second

    async def change(self, change, workers=1, patience_s=PATIENCE_S):
        """Let another revision hold; what each worker says of it."""
        project, name = self.plan.project, self.service.name
        log = await read_rollouts(self.settings, project)
        async with asyncio.timeout(PATIENCE_S):
            while len(live := await asyncio.to_thread(live_workers, *self.ask)) < workers:
                await asyncio.sleep(0.05)
        assert not await hear(self.settings, project, log, name, live, PATIENCE_S)
        words = Words("test", now_ms(), "because")
        revision = change(standing(log, name, self.repository / self.route.model), words)
        await append_revision(self.settings, project, revision)
        said = await acknowledged(self.settings, project, log, revision, live, patience_s)
        assert said.keys() == live
        return revision, list(said.values())

    @property
    def ask(self):
        return self.settings, self.plan.project, self.service.name

    async def asks(self, n):
        """The predictions of n more requests, each with what was asked; n fills all partitions."""
        assert n % PARTITIONS == 0
        before, asked = len(self.sent), some(n, seed=len(self.sent))
        self.sent += asked
        self.send([request(*a, now_ms()) for a in asked])
        found = await self.predictions(len(self.sent))
        # A worker that joins may have answers repeated: these are not the ones that are waited for.
        while len(set(map(where, found))) < len(self.sent):
            found = await self.predictions(len(found) + 1)
        index = [r["source"]["offset"] * PARTITIONS + r["source"]["partition"] for r in found]
        return [(r, self.sent[i]) for r, i in zip(found, index, strict=True) if i >= before]

    def check(self, found):
        """Every score is that of the version that the prediction names."""
        for version, model in self.models.items():
            mine = [(r, a) for r, a in found if r["model_version"] == version]
            if mine:
                whole = np.array([self.vector(*a) for _, a in mine], np.float32)
                columns = [FEATURES.index(name) for name in model.card.features]
                want = model.predict(np.ascontiguousarray(whole[:, columns]))
                np.testing.assert_allclose([r["score"] for r, _ in mine], want, atol=1e-6)
        assert {r["fallback"] for r, _ in found} == {None}

    async def served(self):
        """(prediction id, variant) -> row of the served log."""
        topic = served_topic(self.service.name)
        starts = dict.fromkeys(range(self.admin.partitions(topic)), EARLIEST)
        found = {}
        async for chunk in read_to_end(self.settings, topic, starts):
            for i in range(len(chunk)):
                batch = read_served(chunk.value(i))
                features = msgspec.json.decode(batch.schema.metadata[b"features"])
                for row in batch.to_pylist():
                    found[row["prediction_id"], row["variant"]] = row | {"names": features}
        return found


@pytest.fixture
def rolled(triton):
    tag = triton.unique("rolled") + "."
    made = Rolled(
        triton.settings.model_copy(update={"model_server": "triton"}),
        plan(tag, deadline_ms=600_000, model=triton.unique("risk")),
        triton.model_repository,
    )
    yield made
    remove(made)
    with TritonControl(triton.settings) as control:
        control.unload(made.route.model)


def canary(weight, version=4, mode="canary"):
    def change(now, words):
        return start(now, Candidate(version, mode, weight), words, salt="s")

    return change


def variants(found):
    """Entity -> the variant that answered, which must be one."""
    by_entity = {}
    for record, asked in found:
        assert (record["variant"] == "champion") == (record["model_version"] == "3")
        assert by_entity.setdefault(asked[:2], record["variant"]) == record["variant"]
    return by_entity


@pytest.mark.timeout(240)
async def test_a_canary_is_sticky_grows_is_promoted_and_undone(rolled, tmp_path):
    w = rolled
    async with w.worker(model_server="triton"):
        found = await w.asks(60)
        w.check(found)
        assert {r["variant"] for r, _ in found} == {"champion"}

        w.register()
        _, (said,) = await w.change(canary(30))
        assert (said.running, said.champion, said.candidate, said.refused) == (1, 3, 4, None)
        first = await w.asks(900)
        w.check(first)
        small = {entity for entity, name in variants(first).items() if name == "canary"}
        assert 0.17 < len(small) / len(variants(first)) < 0.43  # 200 entities, four deviations

        await w.change(lambda now, words: weigh(now, 60, words))
        second = await w.asks(900)
        w.check(second)
        again = variants(second)
        large = {entity for entity, name in again.items() if name == "canary"}
        assert small & again.keys() <= large
        assert len(large) > 1.3 * len(small)
        served = await w.served()
        for record, _ in first + second:
            row = served[record["prediction_id"], record["variant"]]
            assert row["names"] == list(w.models[record["model_version"]].card.features)
            assert (row["model_version"], row["failed"]) == (record["model_version"], False)

        # A worker that joins late runs the same, and from then on both do what is said.
        async with w.process(tmp_path / "late.log", model_server="triton"):
            revision, said = await w.change(promote, workers=2)
            assert [s.champion for s in said] == [4, 4]
            found = await w.asks(300)
            w.check(found)
            assert {r["model_version"] for r, _ in found} == {"4"}
            assert {r["variant"] for r, _ in found} == {"champion"}
            revision, said = await w.change(undo, workers=2)
            took = [s.at_ms - revision.at_ms for s in said]
            print(f"undo applied by two workers after {took} ms")
            found = await w.asks(300)
            w.check(found)
            assert {r["model_version"] for r, _ in found} == {"3"}


@pytest.mark.timeout(180)
async def test_a_version_that_cannot_run_never_takes_traffic(rolled):
    w = rolled
    async with w.worker(model_server="triton"):
        await w.asks(3)
        nobody = frozenset({"nobody"})
        log = await read_rollouts(w.settings, w.plan.project)
        assert await hear(w.settings, w.plan.project, log, w.service.name, nobody, 0.1) == nobody
        golden = msgspec.structs.replace(w.card.golden, outputs=[0.5] * len(w.card.golden.outputs))
        publish(w.repository, msgspec.structs.replace(w.card, version=5, golden=golden), w.booster)
        corrupt = publish(w.repository, msgspec.structs.replace(w.card, version=6), w.booster)
        (corrupt / "xgboost.ubj").write_bytes(w.booster[: len(w.booster) // 2])
        for version, told in ((5, "golden"), (6, "is damaged"), (7, "model.json is missing")):
            _, (said,) = await w.change(canary(50, version))
            assert told in said.refused, said.refused
            assert (said.champion, said.candidate) == (3, None)
            found = await w.asks(60)
            w.check(found)
            assert {r["model_version"] for r, _ in found} == {"3"}
            _, (said,) = await w.change(undo)
            assert (said.running, said.refused) == (said.revision, None)
        # Not even in a worker that starts meanwhile.
        await w.change(canary(50, 6))
    async with w.worker(model_server="triton"):
        found = await w.asks(60)
        w.check(found)
        assert {r["model_version"] for r, _ in found} == {"3"}


@pytest.mark.timeout(180)
async def test_a_shadow_that_hangs_delays_nobody(rolled):
    w = rolled
    gate = w.version.parent / "4" / "closed"
    try:
        async with w.worker(model_server="triton"):
            await w.asks(3)
            with (w.register() / "model.py").open("a") as source:
                source.write(
                    "\nimport time\n\n_execute = TritonPythonModel.execute\n\n\n"
                    "def _held(self, requests):\n"
                    f"    while os.path.exists({str(gate)!r}):\n        time.sleep(0.01)\n"
                    "    return _execute(self, requests)\n\n\n"
                    "TritonPythonModel.execute = _held\n"
                )
            _, (said,) = await w.change(canary(100, mode="shadow"))
            assert said.refused is None
            gate.touch()
            found = []
            for _ in range(3):  # each waits for all its predictions, none for the shadow
                found += await w.asks(300)
            w.check(found)
            assert {r["model_version"] for r, _ in found} == {"3"}
            gate.unlink()
            ids = {r["prediction_id"] for r, _ in found}
            async with asyncio.timeout(PATIENCE_S):
                while len(shadowed := shadows(await w.served()).keys() & ids) < 300:
                    await asyncio.sleep(0.1)
            served = shadows(await w.served())
            asked = {r["prediction_id"]: a for r, a in found}
            for name in shadowed:
                assert served[name]["model_version"] == "4"
                columns = [FEATURES.index(feature) for feature in TURNED]
                whole = np.array([w.vector(*asked[name])], np.float32)[:, columns]
                want = w.models["4"].predict(np.ascontiguousarray(whole))[0]
                assert served[name]["score"] == pytest.approx(want, abs=1e-6)
    finally:
        gate.unlink(missing_ok=True)


def shadows(served):
    return {name: row for (name, variant), row in served.items() if variant == "shadow"}
