"""State from the archive, the rest from the stream: every value is that of all events, each once.

The topic has lost what the archive took, so that part of every value can only have come from the
archive; and the archive ended there, so the rest can only have come from the stream.
"""

from __future__ import annotations

import asyncio
import random
import resource
import signal
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import orjson
import pytest
from aiokafka.partitioner import murmur2
from confluent_kafka import Producer
from distributed import Client
from support.dask_workers import cluster
from support.one_value import feature_worker

from streamsvc.agents.archive import ArchiveWorker
from streamsvc.agents.archive_targets import archive_targets
from streamsvc.agents.backfill.cluster import Pool, open_pool
from streamsvc.agents.backfill.run import backfill
from streamsvc.archive.names import chain, logs_of
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import (
    LIFETIME_MS,
    Aggregate,
    EventField,
    EventSchema,
    JoinKey,
    Plan,
    Source,
    View,
)
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import (
    CheckFailedError,
    ConfigurationError,
    IntegrityError,
    UnavailableError,
)
from streamsvc.monitor.metrics import ArchiveMetrics
from streamsvc.store.client import connect
from streamsvc.store.keys import row_pattern
from streamsvc.store.markers import read_markers
from streamsvc.store.reader import RowReader
from streamsvc.store.row import RowLayout
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.app import serve

pytestmark = pytest.mark.timeout(400)

N, PARTITIONS, GROUPS = 6_000, 3, 4
START_MS = 1_700_000_000_000
MINUTE, HOUR = 60_000, 3_600_000
LATENESS_MS = MINUTE
PATIENCE_S = 120
FIELDS = (
    EventField("card", ("card",), "string"),
    EventField("shop", ("shop",), "int64"),
    EventField("amount", ("amount",), "float64"),
    EventField("at", ("at",), "int64"),
)
OF_CARD = [
    Aggregate("n", "amount", "count", 10 * MINUTE, MINUTE),
    Aggregate("spent", "amount", "sum", HOUR, 5 * MINUTE),
    Aggregate("spread", "amount", "std", HOUR, 5 * MINUTE),
    Aggregate("shops", "shop", "count_distinct", HOUR, 5 * MINUTE),
    Aggregate("last", "shop", "last", 10 * MINUTE, MINUTE),
    Aggregate("most", "amount", "max", LIFETIME_MS, LIFETIME_MS),
]
OF_SHOP = [Aggregate("dear", "half", "count", HOUR, MINUTE)]


def dear(events):
    events = events[events["amount"] > 40]
    return events.assign(half=events["amount"] / 2)[["shop", "half"]]


dear.__module__ = "__main__"  # as Feast's decorator has it, so that other processes get the code


@dataclass
class World:
    """A topic of payments, two views of them, and what they must be."""

    settings: object
    plan: Plan
    events: list[dict] = field(default_factory=list)
    """All that counted, with `partition` and `offset`."""
    greatest: dict[int, int] = field(default_factory=dict)

    @property
    def topic(self) -> str:
        return self.plan.sources[0].topic

    def produce(self, n: int, rng: random.Random) -> None:
        """Payments 500 ms apart, a tenth of them out of order; some are late, some are no JSON."""
        keyed = self.plan.sources[0].key_field is not None
        producer = Producer({"bootstrap.servers": self.settings.kafka_bootstrap_servers})
        offsets = Admin(self.settings).end_offsets(self.topic)
        first = max(self.greatest.values(), default=START_MS)
        for i in range(n):
            card = f"c{int(300 * rng.random() ** 2)}"
            at = first + i * 500 - (rng.randrange(2 * MINUTE) if rng.random() < 0.1 else 0)
            event = {"card": card, "shop": rng.randrange(20), "amount": rng.gammavariate(2, 30)}
            p = rng.randrange(PARTITIONS)
            if keyed:
                p = (murmur2(card.encode()) & 0x7FFFFFFF) % PARTITIONS
            broken = rng.random() < 0.01
            producer.produce(
                self.topic, b"{" if broken else orjson.dumps({**event, "at": at}), partition=p
            )
            if not broken and at >= self.greatest.get(p, at) - LATENESS_MS:
                self.greatest[p] = max(self.greatest.get(p, at), at)
                order = (at, p, offsets[p])
                self.events.append({**event, "half": event["amount"] / 2, "order": order})
            offsets[p] += 1
        assert producer.flush(60) == 0

    def row(self, view: View, key, t: int) -> dict:
        mine = [e for e in self.events if e[view.join_keys[0].name] == key]
        if view.udf is not None:
            mine = [e for e in mine if e["amount"] > 40]
        mine.sort(key=lambda e: e["order"])
        found = {}
        for a in view.aggregates:
            left = (t - a.window_ms) // a.hop_ms * a.hop_ms
            values = [e[a.column] for e in mine if left <= e["order"][0] <= t]
            found[a.feature] = {
                "count": len,
                "count_distinct": lambda v: len(set(v)),
                "sum": lambda v: sum(v) if v else None,
                "std": lambda v: float(np.std(v, ddof=1)) if len(v) > 1 else None,
                "max": lambda v: max(v, default=None),
                "last": lambda v: v[-1] if v else None,
            }[a.function](values)
        return found

    def check(self, view: View, until: dict[int, int] | None = None) -> None:
        """Every row holds from its `as_of` until just before its `valid_until`."""
        every, self.events = (
            self.events,
            [e for e in self.events if until is None or e["order"][2] < until[e["order"][1]]],
        )
        name = view.join_keys[0].name
        keys = sorted({e[name] for e in self.events if view.udf is None or e["amount"] > 40})
        columns = [strings(keys) if name == "card" else numeric(keys)]
        layout = RowLayout(dict(view.feature_types))
        rows = RowReader(connect(self.settings), self.plan.project).read(
            view.name, layout, encode_entity_keys(columns)
        )
        values = {f: column.to_pylist() for f, column in rows.values.items()}
        clock = max(e["order"][0] for e in self.events)
        assert rows.present.all()
        for i, key in enumerate(keys):
            assert rows.valid_until[i] > clock, key
            for t in {int(rows.as_of[i]), max(clock, int(rows.as_of[i]))}:
                for f, want in self.row(view, key, t).items():
                    got = values[f][i]
                    same = got == want or abs(got - want) <= 1e-9 * abs(want)
                    assert same, (view.name, key, f, got, want)
        self.events = every

    def incarnations(self, view: View) -> set[int]:
        """Those of the rows in the store."""
        client = connect(self.settings)
        keys = list(client.scan_iter(match=row_pattern(self.plan.project, view.name), count=1_000))
        return {int.from_bytes(row[:4], "big") for row in client.mget(keys) if row is not None}

    async def archive(self) -> dict[int, int]:
        """Let an archive worker take what the topic holds; source partition -> where it ends."""
        settings = self.settings.model_copy(update={"archive_interval_s": 0.2})
        targets = await asyncio.to_thread(archive_targets, settings, self.plan, [])
        ends = Admin(settings).end_offsets(self.topic)
        storage = ArchiveStorage(str(self.plan.sources[0].archive_path))

        def archived() -> bool:
            logs = logs_of(storage.files())
            return {log.partition: chain(f)[-1].next for log, f in logs.items()} == ends

        worker = ArchiveWorker(settings, self.plan.project, targets, ArchiveMetrics())
        stop = asyncio.Event()
        await worker.start()
        serving = asyncio.create_task(serve(worker.app, stop))
        try:
            await until(archived)
        finally:
            stop.set()
            await serving
        return ends

    def features(self):
        return feature_worker(self.settings, self.plan)

    async def applied(self) -> None:
        """Until the rows of all views contain what the topic holds."""
        ends = Admin(self.settings).end_offsets(self.topic)
        client = connect(self.settings)

        def done() -> bool:
            for view in self.plan.views:
                states = range(GROUPS) if view.shuffled else ends
                for state in states:
                    (marker,) = read_markers(client, self.plan.project, view.name, [state])
                    wanted = ends if view.shuffled else {state: ends[state]}
                    got = marker.applied.get(self.topic, {}) if marker else {}
                    if any(got.get(p, 0) < end for p, end in wanted.items()):
                        return False
            return True

        await until(done)

    async def backfill(self, view: View, pool, span=(None, None), progress=None):
        return await asyncio.to_thread(
            backfill, self.settings, self.plan, view, *span, lambda: pool, progress or Noted()
        )


async def until(holds) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not await asyncio.to_thread(holds):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


class Noted:
    """Progress that is remembered, and that may do something about it."""

    def __init__(self, at_first_step=lambda: None) -> None:
        self.steps: Counter[str] = Counter()
        self._at_first_step = at_first_step
        self._what = ""

    def begin(self, what: str, total: int) -> None:
        self._what = what

    def step(self, steps: int) -> None:
        self.steps[self._what] += steps
        act, self._at_first_step = self._at_first_step, lambda: None
        act()


@contextmanager
def here():
    """A pool of one thread of this process, which starts at once."""
    with Client(
        processes=False, n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"
    ) as client:
        yield Pool(client)


def world(stack, directory: Path, key_field: str | None) -> World:
    source = Source(
        "payments",
        stack.unique("payments"),
        EventSchema(FIELDS, "at", "ms"),
        LATENESS_MS,
        HOUR,
        key_field,
        str(directory / "archive"),
    )
    views = []
    for name, key, aggregates, udf in (
        ("cards", JoinKey("card", "string"), OF_CARD, None),
        ("shops", JoinKey("shop", "int64"), OF_SHOP, dear),
    ):
        some = tuple(sorted(aggregates, key=lambda a: a.feature))
        counts = ("count", "count_distinct")
        whole = {a.feature for a in some if a.function in counts or a.column == "shop"}
        types = {a.feature: "Int64" if a.feature in whole else "Float64" for a in some}
        views.append(View(name, source, (key,), some, types, udf, None, name))
    settings = stack.settings.model_copy(
        update={"key_groups": GROUPS, "commit_interval_ms": 200, "topic_partitions": 2}
    )
    Admin(settings).ensure([TopicSpec(source.topic, PARTITIONS)])
    return World(settings, Plan(stack.unique("p"), (source,), tuple(views), (), (), ()))


def page_faults(arrays):
    """Of a process that makes arrays of 8 MB one after the other."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(arrays):
        np.ones(1 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def test_our_processes_keep_freed_memory_for_the_next_batch():
    with open_pool(None, 1) as pool:
        pool.client.submit(page_faults, 1, pure=False).result()
        again = pool.client.submit(page_faults, 20, pure=False).result()
    assert again < 20 * (8 << 20) / resource.getpagesize() / 4


async def test_the_stream_goes_on_where_the_archive_ends(stack, tmp_path):
    """Behind the shuffle, while a worker runs, on a cluster that loses a worker."""
    rng, made = random.Random(1), world(stack, tmp_path, None)
    cards, shops = made.plan.views
    await asyncio.to_thread(made.produce, N, rng)
    taken = await made.archive()
    with cluster(tmp_path) as (address, dask_workers), open_pool(address, None) as pool:
        async with made.features():
            await asyncio.to_thread(made.produce, N // 2, rng)
            await made.applied()
            Admin(made.settings).delete_records(made.topic, taken)
            await asyncio.to_thread(pool.client.wait_for_workers, 2, PATIENCE_S)
            noted = Noted(dask_workers[0].kill)
            with pytest.raises(CheckFailedError, match="1 feature workers run"):
                await made.backfill(cards, pool, progress=noted)
            assert dask_workers[0].wait(30) == -signal.SIGKILL
            assert N * 0.9 < noted.steps["events"] <= N
            assert made.incarnations(cards) == {1}, "the state before is the one in use"
        again = await made.backfill(cards, pool)
        assert (again.resumed, again.events, again.incarnation) == (GROUPS, 0, 2)
        done = await made.backfill(shops, pool)
        assert done.handover == taken
        assert done.rows == len({e["shop"] for e in made.events})
    # The values as of the hand-over, before any worker has run.
    for view in made.plan.views:
        assert made.incarnations(view) == {2}
        made.check(view, taken)
    async with made.features():
        await asyncio.to_thread(made.produce, N // 4, rng)
        await made.applied()
        for view in made.plan.views:
            made.check(view)
            assert made.incarnations(view) == {2}


async def test_a_source_that_declares_its_key(stack, tmp_path):
    """Partition by partition, with what stands in the way of a hand-over."""
    rng, made = random.Random(2), world(stack, tmp_path, "card")
    cards, _ = made.plan.views
    await asyncio.to_thread(made.produce, N, rng)
    to_ms = START_MS + N * 350
    with here() as pool:
        with pytest.raises(ConfigurationError, match="streamsvc worker archive"):
            await made.backfill(cards, pool)
        ends = await made.archive()
        done = await made.backfill(cards, pool, (None, to_ms))
        for p, offset in done.handover.items():
            assert 0 < offset < ends[p]
            taken = [e["order"] for e in made.events if e["order"][1] == p]
            assert all(order[0] < to_ms for order in taken if order[2] < offset)
        made.check(cards, done.handover)
        async with made.features():
            await made.applied()
            made.check(cards)
        # What lies between the hand-over and the beginning of the topic is in neither.
        Admin(made.settings).delete_records(made.topic, {0: ends[0]})
        with pytest.raises(IntegrityError, match="is in neither"):
            await made.backfill(cards, pool, (None, to_ms + 1))
        done = await made.backfill(cards, pool)
        assert (done.handover, done.incarnation) == (ends, 2)
        assert made.incarnations(cards) == {2}
    async with made.features():
        await asyncio.to_thread(made.produce, N // 4, rng)
        await made.applied()
        made.check(cards)


class StoppedAfterTheClaim(Noted):
    """The command is killed when it has claimed the incarnation, before the first row."""

    def begin(self, what: str, total: int) -> None:
        assert what != "rows", "killed"


async def test_other_views_go_on_where_they_were(stack, tmp_path):
    """Also if the command comes no further than its claim."""
    rng, made = random.Random(3), world(stack, tmp_path, "card")
    cards, shops = made.plan.views
    await asyncio.to_thread(made.produce, N // 4, rng)
    taken = await made.archive()
    async with made.features():
        await asyncio.to_thread(made.produce, N // 2, rng)
        await made.applied()
    with here() as pool:
        with pytest.raises(AssertionError, match="killed"):
            await made.backfill(cards, pool, progress=StoppedAfterTheClaim())
        assert made.incarnations(cards) == {1}
        for number in (2, 3):
            async with made.features() as worker:
                await asyncio.to_thread(made.produce, N // 4, rng)
                await made.applied()
                await until(lambda number=number: made.incarnations(cards) == {number})
                await made.applied()
                for view in made.plan.views:
                    made.check(view)
                read = worker.metrics.registry.get_sample_value(
                    "streamsvc_events_total", {"topic": made.topic}
                )
                assert read == N // 4, "the group was set back"
            assert made.incarnations(shops) == {1}
            if number == 2:
                assert (await made.backfill(cards, pool)).handover == taken


def test_a_cluster_that_is_not_there(monkeypatch):
    monkeypatch.setattr("streamsvc.dask_cluster.CONNECT_S", 1.0)
    with (
        pytest.raises(UnavailableError, match="No Dask scheduler"),
        open_pool("tcp://127.0.0.1:9", None),
    ):
        pass
