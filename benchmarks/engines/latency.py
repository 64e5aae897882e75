"""How long after a payment was produced its features can be read, at a rate."""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
from confluent_kafka import Consumer, Message, TopicPartition
from engine import Engine, Run
from job import KEYS, PARTITIONS, Payments
from publishing import live
from running import Running
from streamsvc_engine import StreamsvcEngine

from streamsvc.store.client import connect
from streamsvc.store.row import Rows
from streamsvc.transport.admin import TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["Latency", "measure"]

PROBED_USERS, PROBE_S = 20, 0.1
READY_RATE, READY_S = 500, 90.0
WARM_UP_S = 3.0
DRAIN_S = 5.0


@dataclass(frozen=True)
class Latency:
    p50_ms: float
    p99_ms: float
    p999_ms: float
    missing: int
    """Payments whose features did not come within seconds of the last one."""
    verified: str


class _Watch(threading.Thread):
    """Notes when what comes out can be read, until it is told to stop."""

    def __init__(self, engine: Engine, run: Run) -> None:
        super().__init__(daemon=True)
        self._engine, self._run = engine, run
        self._over = threading.Event()
        self.records: list[tuple[float, list[Message]]] = []
        self.positions: list[tuple[float, np.ndarray]] = []
        self.probes: list[tuple[np.ndarray, Rows]] = []

    def run(self) -> None:
        if isinstance(self._engine, StreamsvcEngine):
            self._watch_store(self._engine)
        else:
            self._watch_records()

    def _watch_store(self, engine: StreamsvcEngine) -> None:
        """A payment can be read from when the position is past it; now and then rows are, too."""
        due = 0.0
        with connect(self._run.settings) as client:
            while not self._over.wait(0.001):
                found = engine.applied(self._run, client)
                self.positions.append((now := time.time(), found))
                if now >= due:
                    due = now + PROBE_S
                    rows = engine.rows(self._run, client, np.arange(PROBED_USERS))
                    self.probes.append((found, rows))

    def _watch_records(self) -> None:
        consumer = Consumer(
            librdkafka_config(self._run.settings)
            | {"group.id": self._run.output, "fetch.wait.max.ms": 100}
        )
        consumer.assign([TopicPartition(self._run.output, p, 0) for p in range(PARTITIONS)])
        while not self._over.is_set():
            if messages := consumer.consume(5_000, 0.001):
                self.records.append((time.time(), messages))
        consumer.close()

    def seen(self) -> int:
        """Of how many payments so far."""
        if self.positions:
            return int(self.positions[-1][1].sum())
        return sum(len(messages) for _, messages in self.records)

    def stop(self) -> None:
        self._over.set()
        if self.is_alive():
            self.join()

    def readable(self, payments: Payments) -> np.ndarray:
        """When each payment's features could be read, seconds of the wall clock; NaN for never."""
        if self.positions:
            return self._by_position(payments)
        code = (payments.users << 44) + payments.times
        order = np.argsort(code)
        found = np.full(len(payments), np.nan)
        came, codes = [], []
        for at, messages in self.records:
            for message in messages:
                row = msgspec.json.decode(message.value())
                codes.append((int(row["user"][1:]) << 44) + row["ts"])
                came.append(at)
        place = order[np.searchsorted(code[order], codes)]
        assert np.array_equal(code[place], codes), "features of something that is no payment"
        found[place] = came
        return found

    def check_probes(self, payments: Payments) -> None:
        """Whether rows that were read after a position held all that it promises, and were right.

        Payments come in order, so a row contains what was paid until its instant, and no more.
        """
        homes = payments.homes[payments.users]
        users = np.arange(PROBED_USERS)
        mine = [np.flatnonzero(payments.users == user) for user in users]
        offset = np.empty(len(payments), np.int64)
        for p in range(PARTITIONS):
            offset[homes == p] = np.arange((homes == p).sum())
        seen, at, values = [], [], []
        for positions, rows in self.probes:
            for i, paid in enumerate(mine):
                promised = paid[offset[paid] < positions[payments.homes[i]]]
                if len(promised):
                    assert rows.as_of[i] >= payments.times[promised[-1]], f"the row of u{i} is old"
            seen.append(users[rows.present])
            at.append(rows.as_of[rows.present])
            values.append({name: c.take(rows.present) for name, c in rows.values.items()})
        assert isinstance(self._engine, StreamsvcEngine)
        self._engine.check(payments, np.concatenate(seen), np.concatenate(at), values)

    def _by_position(self, payments: Payments) -> np.ndarray:
        found = np.full(len(payments), np.nan)
        at = np.array([at for at, _ in self.positions])
        applied = np.array([positions for _, positions in self.positions])
        for p in range(PARTITIONS):
            rows = np.flatnonzero(payments.homes[payments.users] == p)  # in order of offset
            look = np.searchsorted(applied[:, p], np.arange(len(rows)), side="right")
            there = look < len(at)
            found[rows[there]] = at[look[there]]
        return found


def measure(engine: Engine, run: Run, rate: int, seconds: float) -> Latency:
    """Run it over payments that come at a rate; verified. Raises AssertionError."""
    run.admin.ensure([TopicSpec(run.topic, PARTITIONS)])
    launch = engine.prepare(run)
    watch = _Watch(engine, run)
    sent: list[tuple[Payments, np.ndarray]] = []

    def publish(rate: int, seconds: float) -> None:
        for turn in live(run.settings, run.topic, rate, seconds):
            sent.append(turn)

    def count() -> int:
        return sum(len(payments) for payments, _ in sent)

    try:
        with Running(launch.command, launch.env, run.work / "log") as running:
            watch.start()
            begin = time.monotonic()
            while watch.seen() < 0.9 * count() or not sent:
                assert time.monotonic() - begin < READY_S, f"{watch.seen()} of {count()} came out"
                publish(READY_RATE, 1.0)
                running.sample()
            settled = count()
            switch = sys.getswitchinterval()
            sys.setswitchinterval(0.0005)  # or the sender waits 5 ms for the watch, and it for him
            gc.collect()
            gc.disable()
            publish(rate, WARM_UP_S + seconds)
            gc.enable()
            sys.setswitchinterval(switch)
            _wait(lambda: watch.seen() >= count())
            watch.stop()
        payments = Payments(
            *(
                np.concatenate([getattr(p, c) for p, _ in sent])
                for c in ("users", "cents", "times")
            ),
            KEYS,
        )
        verified = engine.verify(run, payments)
        if watch.probes:
            watch.check_probes(payments)
            verified += f", {len(watch.probes) * PROBED_USERS:,} rows while they changed"
    finally:
        watch.stop()
        engine.clean(run)
        run.admin.delete([run.topic])
    at = np.concatenate([at for _, at in sent])
    ms = (watch.readable(payments) - at)[settled + int(rate * WARM_UP_S) :] * 1e3
    came = ms[np.isfinite(ms)]
    assert len(came), "nothing of the measured time came out"
    p50, p99, p999 = np.percentile(came, [50, 99, 99.9])
    return Latency(p50, p99, p999, len(ms) - len(came), verified)


def _wait(until: Callable[[], bool]) -> None:
    """Until it holds, or what is missing will not come any more."""
    end = time.monotonic() + DRAIN_S
    while not until() and time.monotonic() < end:
        time.sleep(0.05)
