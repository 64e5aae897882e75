"""Outages: whether every request is answered in time, by whom, and how soon all is as before.

    python benchmarks/outages.py [--rate 2000] [--outage 30] [--deadline-ms 1000]

Two Tritons and a scoring worker of its own servers, under a steady rate of requests the whole time.
Both Tritons are killed; one of two is cut off; both become slow; the store is killed. Each outage
is followed by twice `--settle` seconds without one, which tell how long the recovery took: until
the last answer that was not the model server's own, with features. Every request must have exactly
one prediction_id among the predictions, or nothing is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import scoring
from machine import machine

from streamsvc.columns import strings
from streamsvc.definitions.plan import Plan
from streamsvc.entity_keys import murmur2
from streamsvc.local.stack import LocalStack
from streamsvc.models.triton_control import TritonControl
from streamsvc.settings import Settings, load_settings
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config
from streamsvc.transport.reader import EARLIEST, read_to_end

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.chaos.servers import Links, Servers

SLOW_S = 0.3
"""Each way."""
OWN = "triton, with features"


def plan(tag: str, deadline_ms: int) -> Plan:
    made = scoring.plan(tag, apart=True)
    service = made.services[0]
    assert service.route is not None
    route = replace(service.route, deadline_ms=deadline_ms, freshness_wait_ms=10)
    return replace(made, services=(replace(service, route=route),))


@dataclass(frozen=True, slots=True)
class Outage:
    """When something was away, in ms since the epoch."""

    name: str
    began_ms: float
    ended_ms: float
    quiet_until_ms: float


class Load:
    """Requests at a rate, on a thread of its own; a context manager."""

    def __init__(self, settings: Settings, topic: str, rate: int) -> None:
        self._settings, self._topic, self._rate = settings, topic, rate
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.sent = 0

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        from confluent_kafka import Producer

        producer = Producer({**librdkafka_config(self._settings), "linger.ms": 5})
        home = (murmur2(strings(scoring.names(np.arange(scoring.CARDS)))) % 2).tolist()
        rng = np.random.default_rng(3)
        start = time.perf_counter()
        while not self._stop.wait(0.01):
            due = int((time.perf_counter() - start) * self._rate)
            for card in rng.integers(0, scoring.CARDS, due - self.sent).tolist():
                now = time.time_ns() // 1_000_000
                value = scoring.event(card, int(rng.integers(scoring.SHOPS)), now)
                producer.produce(self._topic, value, b"card-%d" % card, home[card])
            self.sent = due
            producer.poll(0)
        assert producer.flush(30) == 0


@contextmanager
def worker(tag: str, deadline_ms: int, environment: dict[str, str]) -> Iterator[Path]:
    """A scoring worker; its log."""
    log = Path(tempfile.gettempdir()) / f"{tag}.log"
    with log.open("w") as output:
        child = subprocess.Popen(
            [sys.executable, __file__, "--child", tag, "--deadline-ms", str(deadline_ms)],
            env={**os.environ, **environment},
            stdout=output,
            stderr=output,
        )
        try:
            yield log
            assert child.poll() is None, log.read_text()[-3_000:]
        finally:
            child.terminate()
            child.wait(60)
    log.unlink()


async def rows(settings: Settings, topic: str) -> list[tuple[int, int, int, bytes]]:
    """Partition, offset, Kafka timestamp and value of every record."""
    found = []
    starts = dict.fromkeys(range(scoring.PARTITIONS), EARLIEST)
    async for chunk in read_to_end(settings, topic, starts):
        for i in range(len(chunk)):
            value = chunk.value(i)
            assert value is not None
            at = int(chunk.offsets[i]), int(chunk.timestamps[i])
            found.append((chunk.partition, *at, value))
    return found


@dataclass(frozen=True, slots=True)
class Answers:
    """One for each request, sorted by when it was asked; shape (n,)."""

    asked_ms: np.ndarray
    took_ms: np.ndarray
    by: np.ndarray

    def during(self, begin_ms: float, end_ms: float) -> Answers:
        part = (self.asked_ms >= begin_ms) & (self.asked_ms < end_ms)
        return Answers(self.asked_ms[part], self.took_ms[part], self.by[part])


def answers(settings: Settings, tag: str) -> Answers:
    """Raises AssertionError unless every request was answered."""
    asked = {(p, o): ms for p, o, ms, _ in asyncio.run(rows(settings, tag))}
    answered: dict[tuple[int, int], tuple[int, str]] = {}
    for _, _, ms, value in asyncio.run(rows(settings, f"predictions.{tag}")):
        record = msgspec.json.decode(value)
        place = record["source"]["partition"], record["source"]["offset"]
        by = record["fallback"] or "triton"
        by += ", with features" if record["as_of_ms"] is not None else ", no features"
        answered.setdefault(place, (ms, by))
    missing = asked.keys() - answered.keys()
    assert not missing, f"{len(missing):,} requests have no answer, as {min(missing)}"
    assert answered.keys() == asked.keys()
    order = sorted(asked, key=asked.__getitem__)
    asked_ms = np.array([asked[place] for place in order])
    return Answers(
        asked_ms,
        np.array([answered[place][0] for place in order]) - asked_ms,
        np.array([answered[place][1] for place in order]),
    )


def told(outage: Outage, found: Answers, deadline_ms: int) -> str:
    during = found.during(outage.began_ms, outage.ended_ms)
    after = found.during(outage.ended_ms, outage.quiet_until_ms)
    shares = ", ".join(
        f"{by} {n / len(during.by):.1%}" for by, n in Counter(during.by.tolist()).most_common()
    )
    late = int(np.count_nonzero(during.took_ms > deadline_ms))
    other = after.asked_ms[after.by != OWN]
    recovery = 0.0 if not len(other) else (float(other[-1]) - outage.ended_ms) / 1e3
    p50, p99 = np.percentile(during.took_ms, [50, 99])
    return (
        f"{outage.name:34} {len(during.by):>7,} requests: {shares}; "
        f"p50 {p50:,.0f}, p99 {p99:,.0f}, most {during.took_ms.max():,.0f} ms; "
        f"{late:,} after the deadline; all as before {recovery:.1f} s after it ended"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=2_000)
    parser.add_argument("--outage", type=float, default=30.0, help="seconds of each")
    parser.add_argument("--settle", type=float, default=10.0, help="seconds before each")
    parser.add_argument("--deadline-ms", type=int, default=1_000)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.deadline_ms)
        return
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        run(Path(directory), stack, options)


def run(directory: Path, stack: ExitStack, options: argparse.Namespace) -> None:
    servers = stack.enter_context(Servers(directory / "first"))
    second = directory / "second"
    second.mkdir()
    (second / "streamsvc.toml").write_text(f'model_repository = "{servers.model_repository}"\n')
    tag = f"outage-{uuid.uuid4().hex[:8]}"
    running = plan(tag, options.deadline_ms)
    scoring.train(running, servers.model_repository)
    other = LocalStack(second)
    stack.callback(other.down)
    links = Links()
    stack.callback(links.close)

    def start_tritons() -> None:
        servers.start("triton")
        other.up(["triton"])

    start_tritons()
    settings = servers.settings
    tritons = [load_settings(servers.repo), load_settings(second)]
    for triton in tritons:
        with TritonControl(triton) as control:
            control.load(tag)
    links.aim("model", tritons[1].triton_grpc_url)
    topics = (tag, f"predictions.{tag}", f"served.{tag}")
    Admin(settings).ensure([TopicSpec(t, scoring.PARTITIONS) for t in topics])
    scoring.write_store(settings, running, windowed=True)
    addresses = f"{servers.links.address('model')},{links.address('model')}"
    environment = {**servers.environment, "STREAMSVC_TRITON_GRPC_URL": addresses}
    outages: list[Outage] = []

    def away(name: str, begin: Callable[[], object], end: Callable[[], object]) -> None:
        time.sleep(options.settle)
        began = time.time() * 1e3
        begin()
        time.sleep(options.outage)
        end()
        ended = time.time() * 1e3
        time.sleep(options.settle)
        outages.append(Outage(name, began, ended, time.time() * 1e3))

    def kill_tritons() -> None:
        servers.stop("triton", signal.SIGKILL)
        [process] = [s.pid for s in other.status() if s.name == "triton"]
        assert process is not None
        os.kill(process, signal.SIGKILL)

    mends: list[Callable[[], None]] = []

    def disturb(how: str, *which: Links) -> None:
        mends.extend(link.disturb("model", how, SLOW_S) for link in which)

    def mend() -> None:
        while mends:
            mends.pop()()

    with worker(tag, options.deadline_ms, environment):
        with Load(settings, tag, options.rate) as load:
            until(lambda: answered(settings, tag) >= options.rate)
            time.sleep(options.settle)
            counts = [inferences(triton, tag) for triton in tritons]
            began = time.time() * 1e3
            time.sleep(options.settle)
            steady = Outage("nothing", began, time.time() * 1e3, time.time() * 1e3)
            share = np.array([inferences(t, tag) for t in tritons]) - counts
            away("one of two Tritons hangs", lambda: disturb("hang", links), mend)
            away("both Tritons slow", lambda: disturb("slow", servers.links, links), mend)
            away("both Tritons killed", kill_tritons, start_tritons)
            away(
                "the store killed",
                lambda: servers.stop("valkey", signal.SIGKILL),
                lambda: servers.start("valkey"),
            )
        until(lambda: answered(settings, tag) >= load.sent)
    found = answers(settings, tag)
    assert len(found.by) == load.sent
    print(machine("tritonclient", "xgboost"))
    print(
        f"{options.rate:,} requests/s, deadline {options.deadline_ms:,} ms, outages of "
        f"{options.outage:g} s: {load.sent:,} requests, all answered; shares of the two Tritons "
        + " and ".join(f"{part:.0%}" for part in share / share.sum())
    )
    for outage in (steady, *outages):
        print(told(outage, found, options.deadline_ms))


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def answered(settings: Settings, tag: str) -> int:
    return sum(Admin(settings).end_offsets(f"predictions.{tag}").values())


def inferences(settings: Settings, model: str) -> int:
    with TritonControl(settings) as control:
        return control.inference_count(model)


def child(tag: str, deadline_ms: int) -> None:
    from streamsvc.agents.run_scoring import run_services
    from streamsvc.transport.app import run as run_loop

    settings = load_settings()
    repository = Path(settings.model_repository)
    run_loop(run_services(settings, plan(tag, deadline_ms), repository))


if __name__ == "__main__":
    main()
