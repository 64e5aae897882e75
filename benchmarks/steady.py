"""Memory under steady load: whether a feature worker, its changelog and the store stop growing.

    python benchmarks/steady.py [--minutes 30] [--rate 2000] [--keys 20000] [--speed 240]

Event time runs `--speed` times as fast as the clock, so that the longest window, a day, has been
filled and emptied again several times when half of the run is over. Growth is that of the second
half: the median of its last third against that of its first. At the end 500 random entities must be
what NumPy makes of the events, or nothing is written.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import features
import numpy as np
import results
from machine import machine
from prometheus_client.parser import text_string_to_metric_families

from streamsvc.columns import strings
from streamsvc.entity_keys import murmur2
from streamsvc.settings import Settings, load_settings
from streamsvc.store.client import connect
from streamsvc.store.sweep import delete_project
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.producer import BatchProducer

TICK_S = 0.05
SAMPLE_S = 10.0
MIB = 2**20
SHOWN = 12
"""Rows of the table; the figures are made of all samples."""


class Load:
    """Events at a steady rate, and event times that run faster than the clock."""

    def __init__(self, rate: int, keys: int, speed: float, seconds: float) -> None:
        rng = np.random.default_rng(0)
        n = int(rate * seconds)
        self.rate = rate
        self.users = rng.integers(0, keys, n)
        self.amounts = np.round(rng.gamma(2, 30, n), 2)
        self.times = features.START_MS + (np.arange(n) * (1_000 * speed / rate)).astype(np.int64)
        self.names = [f"u{k}" for k in range(keys)]
        self.homes = murmur2(strings(self.names)) % features.PARTITIONS

    async def send(self, settings: Settings, topic: str) -> None:
        """Send all of them, each when it is due; returns when they are acknowledged."""
        producer = BatchProducer(settings)
        await producer.start()
        began, sent, acks = time.monotonic(), 0, []
        while sent < len(self.users):
            await asyncio.sleep(TICK_S)
            due = min(int(self.rate * (time.monotonic() - began)), len(self.users))
            rows = np.arange(sent, due)
            for partition in range(features.PARTITIONS):
                mine = rows[self.homes[self.users[rows]] == partition].tolist()
                records = [(self.names[self.users[i]].encode(), self.text(i), ()) for i in mine]
                acks.append(await producer.send(topic, partition, records))
            acks = [ack for ack in acks if not ack.done()]  # type: ignore[attr-defined]
            sent = due
        await asyncio.gather(*acks)
        await producer.stop()

    def text(self, i: int) -> bytes:
        return b'{"user":"u%d","amount":%.2f,"ts":%d}' % (
            *(self.users[i], self.amounts[i], self.times[i]),
        )


def sample(child: subprocess.Popen[bytes], port: int, store: Any, log_length: Callable[[], int]):
    """What there is at this moment."""
    status = Path(f"/proc/{child.pid}/status").read_text()
    resident = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
        gauges = {f.name: sum(s.value for s in f.samples) for f in families if f.type == "gauge"}
    return {
        "worker, MiB": int(resident.split()[1]) / 1024,
        "live tiles": int(gauges["streamsvc_state_tiles"]),
        "state, MiB": gauges["streamsvc_state_bytes"] / MIB,
        "changelog, records": log_length(),
        "store, MiB": store.info("memory")["used_memory"] / MIB,
    }


def measure(settings: Settings, load: Load, keys: int) -> list[dict[str, Any]]:
    topic = f"bench-{uuid.uuid4().hex[:8]}"
    running = features.plan(topic, declared=True, views=1)
    admin = Admin(settings)
    admin.ensure([TopicSpec(topic, features.PARTITIONS)])

    def log_length() -> int:
        names = [t for t in admin.topics() if running.project in t and t.endswith("changelog")]
        ends, starts = (
            [sum(told(name).values()) for name in names]
            for told in (admin.end_offsets, admin.start_offsets)
        )
        return sum(ends) - sum(starts)

    client = connect(settings)
    log = tempfile.NamedTemporaryFile("w", suffix=".log")  # noqa: SIM115 - closed below
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    child = subprocess.Popen(
        [sys.executable, features.__file__, "--child", "direct", topic],
        env={**os.environ, "STREAMSVC_METRICS_PORT": str(port)},
        stderr=log,
    )
    sender = threading.Thread(target=lambda: asyncio.run(load.send(settings, topic)), daemon=True)
    samples: list[dict[str, Any]] = []
    try:
        while not answers(port):
            assert child.poll() is None, Path(log.name).read_text()[-3000:]
            time.sleep(0.5)
        sender.start()
        began = time.monotonic()
        while sender.is_alive():
            sender.join(SAMPLE_S)
            assert child.poll() is None, Path(log.name).read_text()[-3000:]
            now = {"minute": (time.monotonic() - began) / 60}
            samples.append({**now, **sample(child, port, client, log_length)})
            print({name: round(value, 1) for name, value in samples[-1].items()}, flush=True)
        while features.applied(client, running, settings) < len(load.users):
            assert child.poll() is None, Path(log.name).read_text()[-3000:]
            time.sleep(0.1)
        events = load.users, load.amounts, load.times
        features.verify(settings, running, events, keys)
    finally:
        child.terminate()
        child.wait(30)
        log.close()
        delete_project(client, running.project)
    return samples


def answers(port: int) -> bool:
    with socket.socket() as asked:
        return asked.connect_ex(("127.0.0.1", port)) == 0


def growth(samples: list[dict[str, Any]], what: str) -> float:
    """Of the second half, the last third against the first."""
    values = np.array([each[what] for each in samples[len(samples) // 2 :]])
    third = max(1, len(values) // 3)
    return float(np.median(values[-third:]) / np.median(values[:third]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--rate", type=int, default=2_000, help="events a second")
    parser.add_argument("--keys", type=int, default=20_000)
    parser.add_argument("--speed", type=float, default=240, help="of event time")
    options = parser.parse_args()
    print(machine("numba", "aiokafka", "redis"))
    load = Load(options.rate, options.keys, options.speed, options.minutes * 60)
    samples = measure(load_settings(), load, options.keys)
    grown = {name: growth(samples, name) for name in samples[0] if name != "minute"}
    told = ", ".join(f"{name.split(',')[0]} {ratio - 1:+.1%}" for name, ratio in grown.items())
    print(told)
    every = -(-len(samples) // SHOWN)
    results.write(
        "steady",
        samples[every - 1 :: every],
        *("numba", "aiokafka", "redis"),
        note=f"{options.rate:,} events/s of {options.keys:,} uniform keys, 15 features in windows "
        f"of up to a day; event time runs {options.speed:g} times as fast as the clock. "
        f"In the second half: {told}.",
        figures={"memory_growth": grown["worker, MiB"]},
        plots=[{"title": "Memory under steady load", "x": "minute", "y": "worker, MiB"}],
    )


if __name__ == "__main__":
    main()
