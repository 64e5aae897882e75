"""Scoring worker: predictions/s through the model server, and latency from event to prediction.

    python benchmarks/scoring.py throughput [--requests 300000] [--delivery …]
    python benchmarks/scoring.py answer [--rate 1000] [--seconds 20] [--delivery …]
    python benchmarks/scoring.py latency [--rate 1000 …] [--seconds 20] [--declared] [--delivery …]

All servers on the same machine. `model_repository` must be what Triton reads: run this in the
directory that `streamsvc up` was run in. 26 features of two windowed views (cards, shops) and one
batch view, 50,000 cards. `throughput` scores a topic that is full already, with rows and markers as
a feature worker leaves them; `answer` sends requests at a rate over the same rows. `latency` sends
events that are requests at the same time, through a feature worker and a scoring worker: each
prediction contains its own event. With `--declared` there is no view by shop, so that nothing goes
through the shuffle. `--delivery both` runs each mode with `at_least_once` and then with
`exactly_once`. Every run compares scores with the booster in this process before it prints.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import results
from machine import machine
from processes import cpu, cpu_of_all, since

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import (
    Aggregate,
    BatchView,
    EventField,
    EventSchema,
    FeatureRef,
    JoinKey,
    Plan,
    Route,
    Service,
    Source,
    View,
)
from streamsvc.entity_keys import encode_entity_keys, murmur2
from streamsvc.models.artifact import Golden, ModelCard
from streamsvc.models.histogram import histogram
from streamsvc.models.local_model import LocalModel
from streamsvc.models.triton_repository import publish
from streamsvc.scoring.served_log import read_served
from streamsvc.settings import Settings, load_settings
from streamsvc.store.client import connect
from streamsvc.store.markers import Marker, write_marker
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.writer import FencedWriter
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import EARLIEST, read_to_end

PARTITIONS = 2
WARM_UP_S = 3.0
"""Of the workers, and of the broker's just-in-time compiler on topics that are new."""
MODES = ("throughput", "answer", "latency")
DELIVERIES = ("at_least_once", "exactly_once")
PACKAGES = ("tritonclient", "xgboost")
CARDS, SHOPS = 50_000, 500
FUNCTIONS = ("count", "sum", "mean", "min", "max")


def view(name: str, source: Source, key: JoinKey, windows: tuple[int, ...]) -> View:
    aggregates = [
        Aggregate(f"{f}_{w // 1000}s", "amount", f, w, w // 60) for w in windows for f in FUNCTIONS
    ]
    return View(
        name=name,
        source=source,
        join_keys=(key,),
        aggregates=tuple(sorted(aggregates, key=lambda a: a.feature)),
        feature_types={
            a.feature: "Int64" if a.function == "count" else "Float64" for a in aggregates
        },
        udf=None,
        ttl_ms=None,
        definition_hash="bench",
    )


def plan(tag: str, *, apart: bool, declared: bool = False, once: bool = False) -> Plan:
    """`apart`: requests are on a topic of their own, not on that of the events. `declared`: every
    view is by the key that the topic is partitioned by. `once`: predictions exactly once."""
    fields = tuple(
        EventField(n, (n,), t)  # type: ignore[arg-type]
        for n, t in (("card", "string"), ("shop", "int64"), ("amount", "float64"), ("ts", "int64"))
    )
    schema = EventSchema(fields, "ts", "ms")
    requests = Source("requests", tag, schema, 60_000, 10**15, "card", archive_path=None)
    source = replace(requests, name="events", topic=f"{tag}-events") if apart else requests
    views = (
        view("cards", source, JoinKey("card", "string"), (600_000, 3_600_000, 86_400_000)),
        view("shops", source, JoinKey("shop", "int64"), (600_000, 3_600_000)),
    )[: 1 if declared else 2]
    limits = BatchView(
        "limits", (JoinKey("card", "string"),), ("limit",), {"limit": "Float64"}, None
    )
    refs = tuple(FeatureRef(v.name, f) for v in (*views, limits) for f in v.features)
    route = Route(
        requests=tag,
        model=tag,
        predictions=f"predictions.{tag}",
        deadline_ms=600_000,
        freshness_wait_ms=1_000,
        delivery="exactly_once" if once else "at_least_once",
    )
    service = Service(tag, refs, route, requests)
    return Plan(tag, (requests, source), views, (limits,), (), (service,))


def train(running: Plan, repository: Path) -> LocalModel:
    import xgboost

    features = [str(ref) for ref in running.services[0].features]
    rng = np.random.default_rng(0)
    matrix = rng.gamma(2, 30, (4_000, len(features))).astype(np.float32)
    labels = matrix[:, 0] + matrix[:, -1] > 120
    booster = xgboost.train(
        {"objective": "binary:logistic", "max_depth": 6}, xgboost.DMatrix(matrix, labels), 100
    )
    nothing = histogram(matrix[:, 0])
    card = ModelCard(
        model=running.project,
        version=1,
        service=running.project,
        features=features,
        trained_from_ms=0,
        trained_until_ms=1,
        rows=len(matrix),
        metrics={},
        histograms={},
        score=nothing,
        golden=Golden([], []),
    )
    return LocalModel(publish(repository, card, bytes(booster.save_raw("ubj"))))


def write_store(settings: Settings, running: Plan, *, windowed: bool) -> None:
    client, now = connect(settings), time.time_ns() // 1_000_000
    writer = FencedWriter(client, running.project)
    for of in (*(running.views if windowed else ()), *running.batch_views):
        n = SHOPS if of.name == "shops" else CARDS
        ids = numeric(np.arange(n)) if of.name == "shops" else strings(names(np.arange(n)))
        layout = RowLayout(dict(of.feature_types))
        values = {f: numeric(column) for f, column in values_of(of, n).items()}
        as_of, until = np.full(n, now - 1_000), np.full(n, NEVER_MS)
        writer.write(of.name, encode_entity_keys([ids]), layout.pack(values, 0, 0, as_of, until))
    if windowed:
        marker = Marker(1, {}, now + 3_600_000, now)
        for of in running.views:
            for p in range(settings.key_groups if of.shuffled else PARTITIONS):
                write_marker(client, running.project, of.name, p, marker)


def values_of(of: View | BatchView, n: int) -> dict[str, np.ndarray]:
    """What the store holds of the first n entities of a view, by feature."""
    return {f: np.arange(n) % (i + 50) + 0.5 for i, f in enumerate(of.features)}


def names(ids: np.ndarray) -> list[str]:
    return [f"card-{i}" for i in ids.tolist()]


async def fill(settings: Settings, topic: str, n: int) -> None:
    rng = np.random.default_rng(1)
    producer = BatchProducer(settings)
    await producer.start()
    home = murmur2(strings(names(np.arange(CARDS)))) % PARTITIONS
    acks = []
    for _ in range(0, n, 20_000):
        cards, shops = rng.integers(0, CARDS, 20_000), rng.integers(0, SHOPS, 20_000)
        now = time.time_ns() // 1_000_000
        for p in range(PARTITIONS):
            records = [
                (b"card-%d" % c, event(c, s, now), ())
                for c, s in zip(cards.tolist(), shops.tolist(), strict=True)
                if home[c] == p
            ]
            acks.append(await producer.send(topic, p, records))
    await asyncio.gather(*acks)
    await producer.stop()


def event(card: int, shop: int, ts: int) -> bytes:
    return b'{"card":"card-%d","shop":%d,"amount":%d.25,"ts":%d}' % (card, shop, card % 90 + 1, ts)


@contextmanager
def worker(kind: str, tag: str) -> Iterator[int]:
    """A worker process; the pid."""
    with Path(f"/tmp/{tag}-{kind}.log").open("w") as log:
        child = subprocess.Popen([sys.executable, __file__, "--child", kind, tag], stderr=log)
        try:
            yield child.pid
            assert child.poll() is None, Path(log.name).read_text()[-3_000:]
        finally:
            child.terminate()
            child.wait(30)
    Path(log.name).unlink()


async def predictions(settings: Settings, topic: str) -> list[dict[str, object]]:
    found = []
    async for chunk in read_to_end(settings, topic, dict.fromkeys(range(PARTITIONS), EARLIEST)):
        for i in range(len(chunk)):
            value = chunk.value(i)
            assert value is not None
            found.append(msgspec.json.decode(value))
    return found


async def timestamps(settings: Settings, topic: str) -> np.ndarray:
    """When each record was made, in ms."""
    starts = dict.fromkeys(range(PARTITIONS), EARLIEST)
    return np.concatenate([c.timestamps async for c in read_to_end(settings, topic, starts)])


async def verify(settings: Settings, running: Plan, model: LocalModel) -> int:
    """One answer each, none of them from a fallback, all of them the booster's own."""
    route = running.services[0].route
    assert route is not None
    found = await predictions(settings, route.predictions)
    n = sum(Admin(settings).end_offsets(running.project).values())
    assert len({p["prediction_id"] for p in found}) == n, len(found)
    assert len(found) == n or route.delivery == "at_least_once", len(found)
    assert {p["fallback"] for p in found} == {None}
    scores = {p["prediction_id"]: p["score"] for p in found}
    topic, checked = f"served.{running.project}", 0
    async for chunk in read_to_end(settings, topic, dict.fromkeys(range(PARTITIONS), EARLIEST)):
        for i in range(len(chunk)):
            value = chunk.value(i)
            assert value is not None
            batch = read_served(value)
            matrix = batch["features"].flatten().to_numpy().reshape(len(batch), -1)
            want = [scores[name] for name in batch["prediction_id"].to_pylist()]
            np.testing.assert_allclose(model.predict(matrix), want, atol=1e-6)
            checked += len(batch)
    assert checked >= n, checked
    return n


@dataclass(frozen=True)
class Throughput:
    """What one scoring worker has done."""

    plan: Plan
    requests: int
    rate: float
    """Predictions a second,"""
    cpu_s: float
    """and what each took of the worker."""


def throughput(settings: Settings, n: int, *, once: bool) -> Throughput:
    tag = f"bench-{uuid.uuid4().hex[:8]}"
    running = plan(tag, apart=True, once=once)
    model = train(running, Path(settings.model_repository))
    admin = Admin(settings)
    admin.ensure([TopicSpec(t, PARTITIONS) for t in (tag, f"predictions.{tag}", f"served.{tag}")])
    write_store(settings, running, windowed=True)
    asyncio.run(fill(settings, tag, n))
    samples: list[tuple[float, int, float]] = []
    with worker("scoring-apart" + "-once" * once, tag) as pid:
        # Markers of transactions are records, too: all is there when nothing more comes.
        while len(samples) < 20 or samples[-1][1] < n or samples[-1][1] > samples[-20][1]:
            done = sum(admin.end_offsets(f"predictions.{tag}").values())
            samples.append((time.time() * 1e3, done, cpu(pid)))
            time.sleep(0.1)
    assert asyncio.run(verify(settings, running, model)) == n
    made = np.sort(asyncio.run(timestamps(settings, f"predictions.{tag}")))
    begin, end = made[len(made) // 5], made[-1]
    used = np.interp([begin, end], [s[0] for s in samples], [s[2] for s in samples])
    steady = len(made) - len(made) // 5
    return Throughput(running, n, steady / (end - begin) * 1e3, (used[1] - used[0]) / steady)


def drive(
    settings: Settings, running: Plan, rate: int, seconds: float, workers: Mapping[int, str]
) -> tuple[np.ndarray, list[str]]:
    """Send events at a rate, and see their predictions come.

    Latencies in ms, one per event, and who used the processors meanwhile, one line each. On
    librdkafka's own threads, so that the driver takes as little as can be of the machine that the
    servers and workers run on.
    """
    from confluent_kafka import Consumer, Producer, TopicPartition

    topic, answers = running.project, f"predictions.{running.project}"
    base = {**librdkafka_config(settings), "socket.nagle.disable": True}
    # With the client's own linger of 5 ms, as most producers have it, and it counts. Without any,
    # each event is a request of its own, and these alone take a third of a processor in the broker.
    # And with Java's bound on requests under way: a broker that is busy gets larger ones then.
    producer = Producer({**base, "max.in.flight": 5})
    consumer = Consumer({**base, "group.id": topic, "fetch.wait.max.ms": 500})
    consumer.assign([TopicPartition(answers, p, 0) for p in range(PARTITIONS)])
    home = (murmur2(strings(names(np.arange(CARDS)))) % PARTITIONS).tolist()
    rng = np.random.default_rng(2)
    sent: dict[tuple[int, int], float] = {}
    seen: dict[tuple[int, int], float] = {}
    ready: set[int] = set()

    def one(card: int) -> None:
        begin = time.perf_counter()

        def delivered(error: object, message: Any) -> None:
            assert error is None, error
            sent[message.partition(), message.offset()] = begin

        value = event(card, int(rng.integers(SHOPS)), time.time_ns() // 1_000_000)
        producer.produce(topic, value, b"card-%d" % card, home[card], on_delivery=delivered)

    def receive(timeout_s: float) -> None:
        producer.poll(0)
        for message in consumer.consume(1_000, timeout_s):
            now = time.perf_counter()
            answer = msgspec.json.decode(message.value())
            source = answer["source"]
            seen.setdefault((source["partition"], source["offset"]), now)
            if answer["stale_ms"] == 0:
                ready.add(source["partition"])

    # The workers are up once an event of every partition has been answered with itself inside.
    probes = [home.index(p) for p in range(PARTITIONS)]
    while not ready.issuperset(range(PARTITIONS)):
        for pid, kind in workers.items():
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                sys.exit(f"The worker {kind} has ended; its log is /tmp/{topic}-{kind}.log.")
        for card in probes:
            one(card)
        receive(0.5)
    while len(seen) < len(sent) or producer.flush(0):
        receive(0.1)
    settled = len(seen)
    gc.collect()
    gc.freeze()  # what is imported by now would be walked in the middle, for a tenth of a second
    before = cpu_of_all()
    start, total, n = time.perf_counter(), int(rate * seconds), 0
    while n < total:
        due = min(total, int((time.perf_counter() - start) * rate) + 1)
        for card in rng.integers(0, CARDS, due - n).tolist():
            one(card)
        n = due
        receive(0.001)
    used = list(since(before, {**workers, os.getpid(): "driver"}))
    while len(seen) < settled + total:
        receive(0.05)
    consumer.close()
    measured = [k for k, begin in sent.items() if begin >= start + WARM_UP_S]
    return np.array([(seen[k] - sent[k]) * 1e3 for k in measured]), used


def latency(
    settings: Settings, rate: int, seconds: float, *, apart: bool, declared: bool, once: bool
) -> dict[str, Any]:
    tag = f"bench-{uuid.uuid4().hex[:8]}"
    running = plan(tag, apart=apart, declared=declared, once=once)
    model = train(running, Path(settings.model_repository))
    Admin(settings).ensure(
        [TopicSpec(t, PARTITIONS) for t in (tag, f"predictions.{tag}", f"served.{tag}")]
    )
    write_store(settings, running, windowed=apart)
    kinds = ("scoring-apart",) if apart else ("scoring", "features")
    if declared:
        kinds = tuple(f"{kind}-declared" for kind in kinds)
    if once:
        kinds = tuple(f"{kind}-once" for kind in kinds)
    with ExitStack() as stack:
        workers = {stack.enter_context(worker(kind, tag)): kind for kind in kinds}
        ms, used = drive(settings, running, rate, seconds, workers)
    asyncio.run(verify(settings, running, model))
    found = asyncio.run(predictions(settings, f"predictions.{tag}"))
    stale = sum(p["stale_ms"] != 0 for p in found)
    stages = {
        stage: float(np.median([p["latency_ms"][stage] for p in found]))  # type: ignore[index]
        for stage in ("queue", "decode", "freshness", "features", "model")
    }
    p50, p95, p99, p999 = map(float, np.percentile(ms, [50, 95, 99, 99.9]))
    what = ("answer" if apart else "latency") + (", declared key," if declared else "")
    what += ", exactly once," if once else ""
    print(
        f"{what} at {rate:,} events/s: "
        f"p50 {p50:.1f}, p95 {p95:.1f}, p99 {p99:.1f}, p99.9 {p999:.1f} ms; "
        f"{stale} of {len(found):,} without their own event; median stages in ms {stages}; "
        f"({settings.model_server}, verified)\n" + "\n".join(used)
    )
    return {
        "events/s": rate,
        "p50, ms": p50,
        "p95, ms": p95,
        "p99, ms": p99,
        "p99.9, ms": p999,
        **stages,
        "without their own event": stale / len(found),
    }


def child(kind: str, tag: str, settings: Settings) -> None:
    from streamsvc.transport.app import run

    name, *options = kind.split("-")
    running = plan(tag, **{o: o in options for o in ("apart", "declared", "once")})
    if name == "features":
        from streamsvc.agents import run_features

        run(run_features.run_views(settings, running))
    else:
        from streamsvc.agents import run_scoring

        run(run_scoring.run_services(settings, running, Path(settings.model_repository)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("modes", nargs="*", default=list(MODES))
    parser.add_argument("--requests", type=int, default=300_000)
    parser.add_argument("--rate", type=int, nargs="+", default=[1_000])
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--declared", action="store_true")
    parser.add_argument("--delivery", choices=[*DELIVERIES, "both"], default="at_least_once")
    parser.add_argument("--child", action="store_true")
    options = parser.parse_args()
    settings = load_settings()
    if options.child:
        child(options.modes[0], options.modes[1], settings)
        return
    unknown = set(options.modes) - set(MODES)
    if unknown:
        parser.error(f"unknown mode {', '.join(sorted(unknown))}; there are {', '.join(MODES)}")
    print(machine(*PACKAGES))
    deliveries = DELIVERIES if options.delivery == "both" else (options.delivery,)
    for mode in options.modes:
        if mode == "throughput":
            throughputs(settings, options.requests, deliveries)
        else:
            latencies(settings, mode, options, deliveries)


def throughputs(settings: Settings, n: int, deliveries: Sequence[str]) -> None:
    rows = []
    for delivery in deliveries:
        found = throughput(settings, n, once=delivery == "exactly_once")
        print(
            f"throughput, {delivery}: {found.rate:>9,.0f} predictions/s, "
            f"{found.cpu_s * 1e6:.1f} us of worker CPU each "
            f"({settings.model_server}, {n:,} requests, verified)"
        )
        rows.append(
            {
                "delivery": delivery,
                "predictions/s": found.rate,
                "worker CPU, µs each": found.cpu_s * 1e6,
            }
        )
    note = f"One scoring process, {n:,} requests, {settings.model_server}, every vector logged."
    results.write("scoring_throughput", rows, *PACKAGES, note=note)


def latencies(
    settings: Settings, mode: str, options: argparse.Namespace, deliveries: Sequence[str]
) -> None:
    rows, figures = [], {}
    for delivery in deliveries:
        for rate in options.rate:
            row = latency(
                settings,
                rate,
                options.seconds,
                apart=mode == "answer",
                declared=options.declared,
                once=delivery == "exactly_once",
            )
            rows.append({"delivery": delivery, **row})
            if mode == "latency" and options.declared and rate in (1_000, 10_000):
                for percent in ("p50", "p99"):
                    figures[f"prediction_{percent}_{rate // 1_000}k"] = row[f"{percent}, ms"]
    shuffled = "" if options.declared or mode == "answer" else "_shuffled"
    stages = "the medians of what each prediction says of its stages"
    results.write(
        f"scoring_{mode}{shuffled}",
        rows,
        *PACKAGES,
        note=f"Milliseconds, {settings.model_server}; behind p99.9, {stages}.",
        figures=figures,
        plots=[
            {
                "title": "Latency by load",
                "x": "events/s",
                "y": f"{percent}, ms",
                "by": "delivery",
                "log": "xy",
            }
            for percent in ("p50", "p99")
        ]
        if len(options.rate) > 1
        else [],
    )


if __name__ == "__main__":
    main()
