"""The whole path in memory: request bytes in, prediction records out."""

from __future__ import annotations

import asyncio
import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import jsonschema
import msgspec
import numpy as np
import orjson
import pytest
from support.scoring import (
    CARDS,
    FEATURES,
    LIMITS,
    NOW_MS,
    REQUESTS,
    SHOPS,
    Model,
    card,
    chunk,
    plan,
    request,
)

from streamsvc.columns import numeric
from streamsvc.definitions.plan import EventField, EventSchema
from streamsvc.entity_keys import decode_entity_key
from streamsvc.errors import UnavailableError
from streamsvc.events.decode import Decoder
from streamsvc.events.wire import AFTER_HEADER, CLOCK_HEADER
from streamsvc.scoring.fallback import Endpoint, Ladder
from streamsvc.scoring.features import FeatureReads
from streamsvc.scoring.inputs import service_inputs
from streamsvc.scoring.needs import UNKNOWN_LAG_MS, MarkerId
from streamsvc.scoring.output import Writer
from streamsvc.scoring.pipeline import Clock, Pipeline
from streamsvc.scoring.requests import RequestReader
from streamsvc.scoring.served_log import read_served
from streamsvc.scoring.traffic import Traffic, Variant
from streamsvc.scoring.warm import sample_chunk
from streamsvc.store.markers import Marker
from streamsvc.store.row import RowLayout

PARTITIONS = 4
SCHEMA = orjson.loads((Path(__file__).parents[3] / "docs" / "prediction.schema.json").read_bytes())


class Reads:
    """A store in a dictionary: (view, entity) -> sum; everything else follows from it."""

    def __init__(self):
        self.sums = {("shops", 7): 0.75, ("cards", "c1"): 3.0, ("limits", "c1"): 50.0}
        self.read_until_ms = NOW_MS
        self.applied = {}
        self.absent = set()
        self.log = []
        self.errors = []
        self.away = False

    def ping(self):
        self.log.append("ping")
        self._fail()

    def markers(self, ids):
        self.log.append("markers")
        self._fail()
        return {i: self._marker(i) for i in ids}

    def read(self, ids, wanted):
        self.log.append("read")
        self.wanted = {view: layout.features for view, layout, _ in wanted}
        self.ids = ids
        self._fail()
        return {i: self._marker(i) for i in ids}, [self._rows(*w) for w in wanted]

    def _fail(self):
        if self.away:
            raise UnavailableError("away")
        if self.errors:
            raise self.errors.pop()

    def _marker(self, marker_id: MarkerId):
        if marker_id.view in self.absent:
            return None
        return Marker(1, {"payments": dict(self.applied)}, self.read_until_ms, NOW_MS - 5)

    def _rows(self, view, layout: RowLayout, keys):
        rows = []
        for raw in keys.to_bytes_list():
            total = self.sums.get((view, decode_entity_key(raw)[0]))
            if total is None:
                rows.append(None)
                continue
            values = {
                f: numeric([2]) if f.startswith("count") else numeric([total]) for f in layout.types
            }
            as_of, until = np.array([NOW_MS - 100]), np.array([2**63 - 1])
            rows.append(layout.pack(values, 6, 77, as_of, until).row(0))
        return layout.unpack(rows)


class Service:
    def __init__(
        self,
        now_ms=NOW_MS,
        model=None,
        source=REQUESTS,
        monotonic=lambda: 0.0,
        features=FEATURES,
        **route,
    ):
        self.reads = Reads()
        self.model = model or Model()
        self.plan = plan(**{"freshness_wait_ms": 5, "default": 0.5, **route})
        service = self.plan.services[0]
        self.inputs = service_inputs(self.plan, service, features)
        self.ladder = Ladder(
            [Endpoint(self.model), Endpoint(Model("in-process"))],
            [service.route.default],
            monotonic,
        )
        champion = Variant("champion", card(features), self.ladder, None)
        reads = FeatureReads(
            self.inputs,
            RequestReader(source, Decoder(source, max_record_bytes=10_000)),
            self.reads,
            {"cards": PARTITIONS, "shops": PARTITIONS},
            lambda: 0.0,
        )
        clock = Clock(lambda: now_ms, monotonic)
        self.pipeline = Pipeline(
            service.route, reads, self, Traffic(champion), ThreadPoolExecutor(2), clock
        )
        self.writer = Writer(service.route, self.inputs, partitions=3, served_log=True)

    def disturb(self):
        pass

    async def changed(self, ids):
        await asyncio.sleep(0.001)
        return self.reads.markers(ids)

    async def score(self, *chunks):
        scored = await self.pipeline.score(chunks)
        self.outgoing = self.writer.write(scored, "topicid123")
        records = [r for of in self.outgoing.predictions.values() for r in of]
        self.headers = {r[0]: list(r[2]) for r in records}
        found = sorted((orjson.loads(r[1]) for r in records), key=order)
        for record in found:
            jsonschema.validate(record, SCHEMA)
        return scored, found


def order(record):
    return record["source"]["partition"], record["source"]["offset"]


async def test_requests_become_predictions():
    service = Service()
    scored, found = await service.score(
        chunk([request(), request(shop=8, card="nobody")], partition=1, first=5)
    )
    assert [r["score"] for r in found] == [0.75, 0.25]
    assert [r["fallback"] for r in found] == [None, None]
    assert found[0]["prediction_id"] == "risky-requests-1-5-topicid1"
    assert found[0]["entity"] == {"card": "c1", "shop": 7}
    assert found[0]["as_of_ms"] == NOW_MS - 100
    assert found[1]["as_of_ms"] is None
    assert [r["stale_ms"] for r in found] == [0, 0]
    assert scored.asked.vectors.missing == {"cards": 1, "limits": 1, "shops": 1}
    assert service.reads.log == ["read"]
    # shops:sum_1h, cards:sum_1m, ratios:ratio, cards:count_1m, limits:limit
    np.testing.assert_array_equal(
        scored.asked.vectors.matrix,
        np.array([[0.75, 3, 0.1, 2, 50], [np.nan, np.nan, np.nan, 0, np.nan]], np.float32),
    )
    assert len(service.outgoing.served) == 1


async def test_what_no_model_asks_for_is_neither_read_nor_waited_for_nor_computed():
    service = Service(features=("cards:sum_1m",))
    service.reads.absent = {"shops"}  # nobody waits for its marker
    _, found = await service.score(chunk([request(amount=666.0)]))  # which the on-demand view hates
    assert [(r["score"], r["stale_ms"]) for r in found] == [(3.0, 0)]
    assert service.reads.wanted == {"cards": ("sum_1m",)}
    assert {marker.view for marker in service.reads.ids} == {"cards"}
    assert service.reads.log == ["read"]
    # An on-demand view brings what it takes, and no more.
    service = Service(features=("ratios:ratio",))
    _, found = await service.score(chunk([request()]))
    assert [r["score"] for r in found] == [np.float32(0.1)]
    assert service.reads.wanted == {"limits": ("limit",)}
    assert service.reads.ids == []


async def test_what_is_no_request_is_rejected_and_the_rest_goes_on():
    service = Service()
    values = [b"{", request(), None, request(amount=666.0), None, request(), request()]
    headers = [()] * 4 + [[(CLOCK_HEADER, b"5")], [(AFTER_HEADER, b"nonsense")], ()]
    first = chunk(values[:3], first=0, headers=headers[:3])
    second = chunk(values[3:], partition=1, first=0, headers=headers[3:])
    scored, found = await service.score(first, second)
    assert [order(r) for r in found] == [(0, 1), (1, 3)]
    reasons = [(c.partition, r.row, r.reason) for c, rejects in scored.rejects for r in rejects]
    assert sorted(reasons) == [
        (0, 0, "bad_json"),
        (0, 2, "null_value"),
        (1, 0, "udf_failed"),
        (1, 2, "wrong_type"),
    ]


async def test_chunks_without_a_request_give_nothing():
    service = Service()
    scored, found = await service.score(chunk([]), chunk([None], headers=[[(CLOCK_HEADER, b"5")]]))
    assert found == []
    assert scored.rejects == []
    assert service.outgoing.served == []
    assert service.reads.log == []
    assert service.model.calls == []


async def test_nothing_is_read_for_requests_that_are_all_past_their_deadline():
    service = Service(now_ms=NOW_MS + 2_000, deadline_ms=1_000)
    scored, found = await service.score(chunk([request(), request()]))
    assert scored.answers[0].scores.late.all()
    assert [(r["score"], r["fallback"]) for r in found] == [(0.5, "default")] * 2
    assert service.reads.log == []
    assert not service.model.calls


async def test_requests_past_their_deadline_get_the_default():
    service = Service(now_ms=NOW_MS + 2_000, deadline_ms=1_000)
    scored, found = await service.score(
        chunk([request(), request()], timestamps=[NOW_MS, NOW_MS + 1_999])
    )
    assert [(r["score"], r["fallback"]) for r in found] == [(0.5, "default"), (0.75, None)]
    assert scored.answers[0].scores.late.tolist() == [True, False]
    assert [r["latency_ms"]["queue"] for r in found] == [2_000, 1]


async def test_a_record_without_a_timestamp_counts_as_received_now():
    _, found = await Service().score(chunk([request()], timestamps=[-1]))
    assert found[0]["fallback"] is None
    assert found[0]["latency_ms"]["queue"] == 0


async def test_features_that_are_not_read_up_to_the_request_are_waited_for_then_marked():
    service = Service()
    service.reads.read_until_ms = NOW_MS - 30
    _, found = await service.score(chunk([request()]))
    assert found[0]["stale_ms"] == 30
    assert service.reads.log.count("read") == 2
    assert "markers" in service.reads.log
    # Known to lag: the next one does not wait.
    before = len(service.reads.log)
    _, found = await service.score(chunk([request()]))
    assert found[0]["stale_ms"] == 30
    assert service.reads.log[before:] == ["read"]


async def test_a_named_event_is_waited_for_exactly():
    service = Service()
    service.reads.read_until_ms = 0
    service.reads.applied = {2: 10}
    after = [[(AFTER_HEADER, b"payments/2/9,elsewhere/0/99")], [(AFTER_HEADER, b"payments/2/10")]]
    _, found = await service.score(chunk([request(), request()], headers=after))
    assert [r["stale_ms"] for r in found] == [0, 5]


async def test_without_a_marker_nothing_is_known():
    service = Service()
    service.reads.absent = {"cards"}
    _, found = await service.score(chunk([request()]))
    assert found[0]["stale_ms"] == UNKNOWN_LAG_MS


async def test_a_request_that_names_no_entity_waits_for_nothing():
    service = Service()
    service.reads.absent = {"cards", "shops"}
    _, found = await service.score(chunk([request(card=None, shop=None)]))
    assert found[0]["stale_ms"] == 0
    assert found[0]["entity"] == {"card": None, "shop": None}


async def test_a_store_that_comes_back_in_time_costs_nothing_but_time():
    service = Service()
    service.reads.errors = [UnavailableError("away")] * 2
    _, found = await service.score(chunk([request()]))
    assert found[0]["fallback"] is None
    assert service.reads.log == ["read", "read", "read"]


async def test_a_store_that_stays_away_ends_in_the_default_in_time():
    ticks = itertools.count()
    service = Service(monotonic=lambda: next(ticks) / 20)
    service.reads.away = True
    scored, found = await service.score(chunk([request()]))
    assert [(r["score"], r["fallback"]) for r in found] == [(0.5, "default")]
    assert not scored.answers[0].scores.late.any()
    assert np.isnan(scored.asked.vectors.matrix).all()
    assert service.model.calls == []
    await service.pipeline.close()


async def test_a_store_that_stayed_away_is_not_asked_until_it_is_back():
    ticks = itertools.count()
    service = Service(monotonic=lambda: next(ticks) / 20)
    service.reads.away = True
    await service.score(chunk([request()]))
    service.reads.log.clear()
    _, found = await service.score(chunk([request()]))
    assert found[0]["fallback"] == "default"
    assert service.reads.log == []
    service.reads.away = False
    async with asyncio.timeout(30):
        while found[0]["fallback"] is not None:
            _, found = await service.score(chunk([request()]))
            await asyncio.sleep(0.01)
    assert service.reads.log[0] == "ping"
    await service.pipeline.close()


async def test_the_trace_of_a_request_goes_on_with_its_prediction():
    service = Service()
    trace = ("traceparent", b"00-abc-def-01")
    await service.score(
        chunk([request(), request(shop=9)], headers=[[("x", b"1"), trace], [("x", b"2")]])
    )
    assert service.headers == {b"c1|7": [trace], b"c1|9": []}


@pytest.mark.parametrize("view", [CARDS, SHOPS])
def test_the_sample_views_cover_both_kinds_of_partitioning(view):
    assert view.shuffled == (view is SHOPS)
    assert LIMITS.ttl_ms


@pytest.mark.parametrize("unit", ["ms", "s", "us", "ns"])
async def test_a_sample_request_goes_through_everything_but_the_wait(unit):
    source = replace(REQUESTS, schema=replace(REQUESTS.schema, time_unit=unit))
    service = Service(source=source)
    service.reads.read_until_ms = 0
    scored = await service.pipeline.warm(sample_chunk(source), 60_000)
    assert scored.rejects == []
    assert scored.requests.time_ms.tolist() == [1_577_836_800_000] * 2
    assert len(service.model.calls) == 1
    assert service.reads.log == ["read"]


def test_a_sample_has_nested_fields_and_iso_times():
    schema = EventSchema(
        (EventField("card.id", ("card", "id"), "bool"), EventField("at", ("at",), "string")), "at"
    )
    source = replace(REQUESTS, schema=schema)
    chunk = sample_chunk(source)
    decoded = Decoder(source, max_record_bytes=1_000).decode(chunk.values, chunk.timestamps)
    assert decoded.ok.all()
    assert orjson.loads(chunk.value(0)) == {"card": {"id": True}, "at": "2020-01-01T00:00:00Z"}


class Divided(Service):
    """With a canary that takes two of the features, in another order."""

    def __init__(self, weight=50.0, mode="canary", **more):
        super().__init__(**more)
        fewer = [FEATURES[4], FEATURES[0]]
        self.other = Model("other")
        of_canary = Variant(
            mode,
            msgspec.structs.replace(card(fewer), version=4),
            Ladder([Endpoint(self.other)], [0.5], lambda: 0.0),
            np.array([4, 0]),
        )
        champion = self.pipeline.traffic.champion
        self.pipeline.traffic = Traffic(champion, of_canary, weight, "s")

    def served(self):
        batches = [read_served(value) for _, value, _ in self.outgoing.served]
        return {b["variant"][0].as_py(): b for b in batches}


CROWD = [request(card=f"c{i}") for i in range(40)]


async def test_a_batch_is_divided_and_comes_out_in_order():
    service = Divided()
    scored, found = await service.score(chunk(CROWD))
    assert [order(r) for r in found] == [(0, i) for i in range(40)]
    by_variant = {v: [r for r in found if r["variant"] == v] for v in ("champion", "canary")}
    assert 8 < len(by_variant["canary"]) < 32
    assert {r["model_version"] for r in by_variant["champion"]} == {"3"}
    assert {r["model_version"] for r in by_variant["canary"]} == {"4"}
    # The champion scores shops:sum_1h, the canary limits:limit, which only c1 has.
    assert {r["score"] for r in by_variant["champion"]} == {0.75}
    assert {r["entity"]["card"]: r["score"] for r in by_variant["canary"]} == {
        r["entity"]["card"]: 50.0 if r["entity"]["card"] == "c1" else 0.25
        for r in by_variant["canary"]
    }
    served = service.served()
    for variant, batch in served.items():
        assert batch["prediction_id"].to_pylist() == [
            r["prediction_id"] for r in by_variant[variant]
        ]
    assert orjson.loads(served["canary"].schema.metadata[b"features"]) == [FEATURES[4], FEATURES[0]]
    matrix = served["canary"]["features"].flatten().to_numpy().reshape(-1, 2)
    np.testing.assert_array_equal(matrix[:, 1], np.full(len(matrix), 0.75, np.float32))
    assert service.reads.log == ["read"]  # once for all
    again, _ = await service.score(chunk(CROWD[::-1]))
    assert sorted(len(a.rows) for a in again.answers) == sorted(len(a.rows) for a in scored.answers)


async def test_a_canary_that_fails_falls_back_alone():
    service = Divided()
    service.other.error = "broken"
    _, found = await service.score(chunk(CROWD))
    assert {(r["variant"], r["fallback"]) for r in found} == {
        ("champion", None),
        ("canary", "default"),
    }
    served = service.served()
    assert {v: set(b["failed"].to_pylist()) for v, b in served.items()} == {
        "champion": {False},
        "canary": {True},
    }


async def test_a_shadow_answers_nobody_and_is_asked_about_its_share():
    service = Divided(mode="shadow", weight=100.0)
    scored, found = await service.score(chunk(CROWD))
    assert {r["variant"] for r in found} == {"champion"}
    assert not service.other.calls
    shadow = service.pipeline.traffic.shadow
    answers = await service.pipeline.shadow(shadow, scored)
    assert len(answers.scores.values) == 40
    (record,) = service.writer.served(answers, "topicid123")
    batch = read_served(record[1])
    assert set(batch["variant"].to_pylist()) == {"shadow"}
    assert batch["prediction_id"].to_pylist() == [r["prediction_id"] for r in found]
    service.pipeline.traffic = replace(service.pipeline.traffic, weight=0.0)
    assert await service.pipeline.shadow(shadow, scored) is None
