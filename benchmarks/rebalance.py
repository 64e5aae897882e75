"""Rebalances: how long the rows of a partition stand still when feature workers come and go.

    python benchmarks/rebalance.py [--tiles 1000000] [--rate 2000] [--standby-mb 1000]

Real workers of two views, one that reads its partitions by the declared key and one behind the
shuffle, under a steady load. The silent time of a state partition is the longest time during which
the position that its marker promises for one of its source partitions does not advance: marker and
rows are written together. What is printed is the worst partition's, and the median. Every entity is
compared with NumPy over all events before a number is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from machine import machine

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import (
    Aggregate,
    EventField,
    EventSchema,
    JoinKey,
    Plan,
    Source,
    View,
)
from streamsvc.entity_keys import encode_entity_keys, murmur2
from streamsvc.settings import Settings, load_settings
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers
from streamsvc.store.reader import RowReader
from streamsvc.store.row import RowLayout
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.producer import BatchProducer

PARTITIONS = 8
TILES_A_KEY = 10
MINUTE = 60_000
START_MS = 1_700_000_040_000  # on the grid of minutes
FUNCTIONS = ("count", "max", "mean", "min", "sum")
LOOK_S = 0.01
"""Seconds between two looks at the markers: the resolution of every figure."""
SETTLED_S = 3.0
"""Seconds without a silence after which a change is over."""
PATIENCE_S = 120.0


def view(name: str, source: Source, key: JoinKey) -> View:
    aggregates = tuple(Aggregate(f, "amount", f, 60 * MINUTE, MINUTE) for f in FUNCTIONS)  # type: ignore[arg-type]
    types = {f: "Int64" if f == "count" else "Float64" for f in FUNCTIONS}
    return View(name, source, (key,), aggregates, types, None, None, name)


def plan(topic: str) -> Plan:
    fields = tuple(
        EventField(name, (name,), kind)
        for name, kind in (
            ("user", "string"),
            ("shop", "int64"),
            ("amount", "float64"),
            ("ts", "int64"),
        )
    )
    source = Source("events", topic, EventSchema(fields, "ts", "ms"), MINUTE, 10**15, "user", None)
    views = (
        view("by_user", source, JoinKey("user", "string")),
        view("by_shop", source, JoinKey("shop", "int64")),
    )
    return Plan(topic.replace("-", "_"), (source,), views, (), (), ())


class Load:
    """Events, as many a second as asked for, and what they come to."""

    def __init__(self, settings: Settings, topic: str, keys: int) -> None:
        self._settings, self._topic, self._keys = settings, topic, keys
        self._names = [f"u{k}" for k in range(keys)]
        self._home = murmur2(strings(self._names)) % PARTITIONS
        self._rng = np.random.default_rng(0)
        self._all: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._stop = threading.Event()
        self.published = 0

    async def fill(self) -> None:
        """A tile of every key for each of some minutes."""
        producer = BatchProducer(self._settings)
        await producer.start()
        for tile in range(TILES_A_KEY):
            for low in range(0, self._keys, 50_000):
                users = np.arange(low, min(low + 50_000, self._keys))
                await self._publish(producer, users, START_MS + tile * MINUTE)
        await producer.stop()

    @contextmanager
    def steady(self, rate: int) -> Iterator[None]:
        """So many events a second, a hundred times a second."""
        thread = threading.Thread(target=lambda: asyncio.run(self._steadily(rate)))
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    async def _steadily(self, rate: int) -> None:
        producer = BatchProducer(self._settings)
        await producer.start()
        began, at = time.monotonic(), START_MS + TILES_A_KEY * MINUTE
        sent = 0
        while not self._stop.is_set():
            due = int((time.monotonic() - began) * rate) - sent
            if due > 0:
                users = self._rng.integers(0, self._keys, due)
                await self._publish(producer, users, at + int((time.monotonic() - began) * 1_000))
                sent += due
            await asyncio.sleep(0.01)
        await producer.stop()

    async def _publish(self, producer: BatchProducer, users: np.ndarray, at: int) -> None:
        shops = self._rng.integers(0, self._keys, len(users))
        amounts = np.round(self._rng.gamma(2, 30, len(users)), 2)
        acks = []
        for p in range(PARTITIONS):
            rows = np.flatnonzero(self._home[users] == p)
            records = [
                (
                    b"u%d" % u,
                    b'{"user":"u%d","shop":%d,"amount":%.2f,"ts":%d}' % (u, s, a, at),
                    (),
                )
                for u, s, a in zip(
                    users[rows].tolist(), shops[rows].tolist(), amounts[rows].tolist(), strict=True
                )
            ]
            if records:
                acks.append(await producer.send(self._topic, p, records))
        await asyncio.gather(*acks)
        self._all.append((users, shops, amounts))
        self.published += len(users)

    def verify(self, running: Plan) -> None:
        """Every entity, every feature."""
        users, shops, amounts = (np.concatenate(parts) for parts in zip(*self._all, strict=True))
        reader = RowReader(connect(self._settings), running.project)
        for each, ids in zip(running.views, (users, shops), strict=True):
            present = np.unique(ids)
            column = (
                strings([f"u{k}" for k in present]) if each.name == "by_user" else numeric(present)
            )
            layout = RowLayout(dict(each.feature_types))
            rows = reader.read(each.name, layout, encode_entity_keys([column]))
            got = {f: np.array(rows.values[f].to_pylist(), float)[:] for f in FUNCTIONS}
            order = np.argsort(ids, kind="stable")
            cuts = np.searchsorted(ids[order], present)
            values = amounts[order]
            count = np.diff([*cuts, len(ids)])
            total = np.add.reduceat(values, cuts)
            assert (got["count"] == count).all(), each.name
            assert (got["min"] == np.minimum.reduceat(values, cuts)).all(), each.name
            assert (got["max"] == np.maximum.reduceat(values, cuts)).all(), each.name
            assert np.allclose(got["sum"], total, rtol=1e-9), each.name
            assert np.allclose(got["mean"], total / count, rtol=1e-9), each.name


class Watch:
    """Looks at all markers all the time."""

    def __init__(self, settings: Settings, running: Plan) -> None:
        self._client = connect(settings)
        self._running = running
        self._groups = {
            each.name: range(settings.key_groups if each.shuffled else PARTITIONS)
            for each in running.views
        }
        self._positions: dict[tuple[str, int, int], int] = {}
        self._moved: dict[tuple[str, int, int], float] = {}
        self._silent: defaultdict[tuple[str, int], float] = defaultdict(float)
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look_on)

    def __enter__(self) -> Watch:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _look_on(self) -> None:
        while not self._over.wait(LOOK_S):
            self._look()

    def _look(self) -> None:
        topic = self._running.sources[0].topic
        for name, groups in self._groups.items():
            found = read_markers(self._client, self._running.project, name, groups)
            now = time.monotonic()
            with self._lock:
                for group, marker in zip(groups, found, strict=True):
                    applied = marker.applied.get(topic, {}) if marker else {}
                    for p, at in applied.items():
                        self._see((name, group, p), at, now)

    def _see(self, held: tuple[str, int, int], at: int, now: float) -> None:
        since = self._moved.setdefault(held, now)
        silent = self._silent[held[:2]]
        self._silent[held[:2]] = max(silent, now - since)
        if at > self._positions.get(held, -1):
            self._positions[held], self._moved[held] = at, now

    def begin(self) -> None:
        """Forget silences until now."""
        with self._lock:
            self._silent.clear()
            now = time.monotonic()
            self._moved = dict.fromkeys(self._moved, now)

    def applied(self) -> int:
        """Events whose rows of every view can be read."""
        with self._lock:
            least: dict[tuple[str, int], int] = {}
            for (name, _, p), at in self._positions.items():
                least[(name, p)] = min(least.get((name, p), at), at)
            sums: defaultdict[str, int] = defaultdict(int)
            for (name, _), at in least.items():
                sums[name] += at
        return min((sums[each.name] for each in self._running.views), default=0)

    def quiet_for(self) -> float:
        """Seconds that the partition has been silent which is now silent for the longest."""
        with self._lock:
            return time.monotonic() - min(self._moved.values())

    def worst(self) -> dict[str, tuple[float, float]]:
        """View -> silent times since `begin`: of the worst partition, and their median."""
        with self._lock:
            by_view: defaultdict[str, list[float]] = defaultdict(list)
            for (name, _), silent in self._silent.items():
                by_view[name].append(silent)
        return {name: (max(of), float(np.median(of))) for name, of in by_view.items()}


class Fleet:
    """Feature workers as processes."""

    def __init__(self, topic: str, directory: Path, standby_mb: int) -> None:
        self._topic, self._directory = topic, directory
        self._environment = {**os.environ, "STREAMSVC_STANDBY_MEMORY_MB": str(standby_mb)}
        self._environment["STREAMSVC_KEY_GROUPS"] = str(PARTITIONS)
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *, static: bool = False) -> None:
        """Return once it has started."""
        log = self._log(name)
        before = log.read_text().count("feature_worker_started") if log.exists() else 0
        child = [sys.executable, __file__, "--child", self._topic]
        if static:
            child += ["--instance-id", name]
        with log.open("a") as said:
            self._workers[name] = subprocess.Popen(
                child, env=self._environment, stdout=said, stderr=said
            )
        wait_for(lambda: log.read_text().count("feature_worker_started") > before, self.alive)

    def alive(self) -> None:
        for name, worker in self._workers.items():
            assert worker.poll() is None, f"{name}: {self._log(name).read_text()[-3_000:]}"

    def end(self, name: str, how: signal.Signals) -> None:
        """Return once it has ended."""
        worker = self._workers.pop(name)
        worker.send_signal(how)
        code = worker.wait(PATIENCE_S)
        assert code in (0, -signal.SIGKILL), self._log(name).read_text()[-3_000:]

    def standby_lag(self) -> float:
        """Records that copies have not read yet, of the worker that is furthest behind."""
        if self._environment["STREAMSVC_STANDBY_MEMORY_MB"] == "0":
            return 0
        return max(
            _metric(self._log(name), "streamsvc_standby_lag_records") for name in self.names()
        )

    def names(self) -> list[str]:
        return list(self._workers)

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"


def _metric(log: Path, name: str) -> float:
    said = re.sub(r"\x1b\[[0-9;]*m", "", log.read_text())
    port = re.findall(r"metrics_port\W+(\d+)", said)[-1]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def wait_for(holds: Callable[[], bool], alive: Callable[[], None]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        alive()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def settle(watch: Watch, fleet: Fleet) -> None:
    """Wait until for some time no partition was silent for long, and no copy was behind."""
    quiet_since = time.monotonic()

    def settled() -> bool:
        nonlocal quiet_since
        if watch.quiet_for() > 0.5 or fleet.standby_lag() > 100:
            quiet_since = time.monotonic()
        return time.monotonic() - quiet_since > SETTLED_S

    wait_for(settled, fleet.alive)


def measure(
    settings: Settings, tiles: int, rate: int, standby_mb: int
) -> dict[str, dict[str, tuple[float, float]]]:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    running = plan(topic)
    Admin(settings).ensure([TopicSpec(topic, PARTITIONS)])
    load = Load(settings, topic, tiles // TILES_A_KEY)
    found: dict[str, dict[str, tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as directory:
        fleet = Fleet(topic, Path(directory), standby_mb)
        try:
            asyncio.run(load.fill())
            fleet.start("one")
            fleet.start("two")
            with Watch(settings, running) as watch:
                wait_for(lambda: watch.applied() >= load.published, fleet.alive)
                with load.steady(rate):
                    settled = partial(settle, watch, fleet)
                    for what, call in changes(fleet, settled):
                        settled()
                        watch.begin()
                        call()
                        settled()
                        found[what] = watch.worst()
                wait_for(lambda: watch.applied() >= load.published, fleet.alive)
            load.verify(running)
        finally:
            for name in fleet.names():
                fleet.end(name, signal.SIGKILL)
    return found


def changes(fleet: Fleet, settled: Callable[[], None]) -> Iterator[tuple[str, Callable[[], None]]]:
    """What happens, in this order: two workers, three, two, one; then two that are static."""
    yield "no change", lambda: time.sleep(10)
    yield "a third worker joins", lambda: fleet.start("three")
    yield "one of three leaves (SIGTERM)", lambda: fleet.end("three", signal.SIGTERM)
    yield "one of two is killed (kill -9)", lambda: fleet.end("two", signal.SIGKILL)
    fleet.start("static-1", static=True)
    fleet.start("static-2", static=True)
    fleet.end("one", signal.SIGTERM)

    def roll() -> None:
        for name in ("static-1", "static-2"):
            fleet.end(name, signal.SIGTERM)
            fleet.start(name, static=True)
            settled()

    yield "rolling restart, static members", roll


def child(topic: str, instance_id: str | None, settings: Settings) -> None:
    from streamsvc.agents import run_features
    from streamsvc.transport.app import run

    run(run_features.run_views(settings, plan(topic), instance_id))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=1_000_000)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--standby-mb", type=int, nargs="*", default=[0])
    parser.add_argument("--child")
    parser.add_argument("--instance-id")
    options = parser.parse_args()
    settings = load_settings()
    if options.child:
        child(options.child, options.instance_id, settings)
        return
    settings = settings.model_copy(update={"key_groups": PARTITIONS})
    print(machine("numba", "aiokafka", "faust-streaming"))
    print(
        f"{options.tiles:,} tiles of each view at the start, {options.rate:,} events/s, "
        f"{PARTITIONS} partitions and key groups, "
        f"sessions of {settings.session_timeout_ms / 1_000:.0f} s; "
        "silent seconds of the worst partition (their median)"
    )
    for megabytes in options.standby_mb:
        print(f"standby_memory_mb={megabytes}")
        for what, silent in measure(settings, options.tiles, options.rate, megabytes).items():
            views = "   ".join(f"{v} {worst:.2f} ({mid:.2f})" for v, (worst, mid) in silent.items())
            print(f"  {what:34} {views}")


if __name__ == "__main__":
    main()
