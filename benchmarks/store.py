"""The online store: vectors of three views written and read, against Feast and raw redis-py.

    STREAMSVC_REDIS_URL=redis://127.0.0.1:6379/0 python benchmarks/store.py [--feast]
    STREAMSVC_REDIS_URL=redis://127.0.0.1:7000 STREAMSVC_REDIS_CLUSTER=true … for a cluster

A row is a card's 15 doubles, which lie in three views, as the float32 vector that a model takes.
Every side gives the same vectors, which is checked, and they take turns. With --feast: Feast's own
Redis store, the same with precomputed vectors, and the packed store through Feast. Those hold fewer
cards (--feast-keys), because writing a million takes them minutes; fewer are in their favour.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import results
from machine import machine
from report import table
from store_sides import FEATURES, Bytes, FeastStore, Hashes, Packed, Side

from streamsvc.settings import load_settings
from streamsvc.store.client import Client, connect
from streamsvc.store.cluster import Cluster

BATCHES = (1, 50, 1_000)
LEAST_S = 0.25
"""A turn of one side reads for so long."""
OURS = "streamsvc"


class Measured:
    """What one side has taken so far."""

    def __init__(self, side: Side, keys: int) -> None:
        self.side, self.keys = side, keys
        self.written_per_s = 0.0
        self.bytes = 0.0
        self.wall: dict[int, list[float]] = {batch: [] for batch in BATCHES}
        """Seconds of each turn a row,"""
        self.client: list[float] = []
        self.server: list[float] = []
        """CPU seconds a row, of the largest batch,"""
        self.single: list[float] = []
        """and of each read of one row."""

    def row(self, best: dict[int, float]) -> dict[str, Any]:
        rates = {batch: 1 / median(self.wall[batch]) for batch in BATCHES}
        p50, p99 = np.percentile(self.single, [50, 99]) * 1e3
        return {
            "store and client": self.side.name,
            "cards": self.keys,
            "written, rows/s": self.written_per_s,
            "one row p50, ms": p50,
            "p99, ms": p99,
            **{f"read in {b:,}, rows/s": rates[b] for b in BATCHES[1:]},
            f"{OURS}, times that": best[BATCHES[-1]] / rates[BATCHES[-1]],
            "client CPU, µs a row": median(self.client) * 1e6,
            "server CPU": median(self.server) * 1e6,
            "bytes a card": self.bytes,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--feast-keys", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--feast", action="store_true", help="also Feast (slow to start)")
    arguments = parser.parse_args()
    settings = load_settings()
    project = f"bench{uuid.uuid4().hex[:8]}"
    values = np.random.default_rng(1).gamma(2.0, 30.0, (arguments.keys, len(FEATURES)))
    sides: list[tuple[Side, int]] = []
    with connect(settings) as client, tempfile.TemporaryDirectory() as directory:
        if arguments.feast:
            # First, because precomputing looks through all keys of the server.
            url = settings.redis_url.get_secret_value()
            for kind in ("redis", "precomputed", "packed"):
                side = FeastStore(kind, url, project, Path(directory))
                sides.append((side, min(arguments.keys, arguments.feast_keys)))
        if not isinstance(client, Cluster):
            sides.append((Hashes(client, project), min(arguments.keys, 100_000)))
            sides.append((Bytes(client, project), arguments.keys))
        sides.append((Packed(client, project), arguments.keys))
        try:
            measured = [written(client, *each, values) for each in sides]
            for turn in range(arguments.rounds):
                order = measured[turn % len(measured) :] + measured[: turn % len(measured)]
                for each in order:
                    read(client, each, values, np.random.default_rng(turn))
        finally:
            for side, keys in sides:
                side.remove(keys)
        show(client, measured)


def written(client: Client, side: Side, keys: int, values: Any) -> Measured:
    """Write every card once, and verify all of it."""
    found = Measured(side, keys)
    before = used(client)
    began = time.perf_counter()
    for low in range(0, keys, BATCHES[-1]):
        ids = np.arange(low, min(keys, low + BATCHES[-1]))
        side.write(ids, values[ids])
    side.written()
    found.written_per_s = keys / (time.perf_counter() - began)
    found.bytes = (used(client) - before) / keys
    for low in range(0, keys, BATCHES[-1]):
        ids = np.arange(low, min(keys, low + BATCHES[-1]))
        np.testing.assert_array_equal(side.read(ids), values[ids].astype(np.float32))
    return found


def read(client: Client, found: Measured, values: Any, rng: Any) -> None:
    """One turn: batches of each size of random cards."""
    for batch in BATCHES:
        spent: list[float] = []
        cpu, server = time.process_time(), server_cpu(client)
        while sum(spent) < LEAST_S or len(spent) < 3:
            ids = (
                rng.choice(found.keys, batch, replace=False)
                if batch > 1
                else rng.integers(found.keys, size=1)
            )
            began = time.perf_counter()
            got = found.side.read(ids)
            spent.append(time.perf_counter() - began)
            assert got[-1, -1] == np.float32(values[ids[-1], -1])
        rows = batch * len(spent)
        found.wall[batch].append(sum(spent) / rows)
        if batch == 1:
            found.single += spent
        if batch == BATCHES[-1]:
            found.client.append((time.process_time() - cpu) / rows)
            found.server.append((server_cpu(client) - server) / rows)


def used(client: Client) -> int:
    return sum(int(each["used_memory"]) for each in infos(client, "memory"))


def server_cpu(client: Client) -> float:
    found = infos(client, "cpu")
    return sum(float(each["used_cpu_user"]) + float(each["used_cpu_sys"]) for each in found)


def infos(client: Client, section: str) -> list[dict[str, Any]]:
    """One a server that keeps data."""
    if isinstance(client, Cluster):
        found: list[dict[str, Any]] = [
            client.get_redis_connection(node).info(section) for node in client.get_primaries()
        ]
        return found
    return [client.info(section)]


def show(client: Client, measured: Sequence[Measured]) -> None:
    servers = infos(client, "server")
    server = servers[0].get("server_name", "redis")
    server += f" {servers[0].get('valkey_version') or servers[0]['redis_version']}"
    print(machine("redis", "feast"), "·", f"{len(servers)} x {server}")
    ours = next(each for each in measured if each.side.name == OURS)
    best = {batch: 1 / median(ours.wall[batch]) for batch in BATCHES}
    rows = [each.row(best) for each in measured]
    print(table(rows))
    results.write(
        "store",
        rows,
        "redis",
        "feast",
        note=(
            f"{len(FEATURES)} doubles in three views of a card, in {server}; the middle of "
            f"{len(ours.client)} turns. CPU is that of reads in {BATCHES[-1]:,}."
        ),
        figures={
            "store_rows_per_s": best[BATCHES[-1]],
            "store_row_p99": float(np.percentile(ours.single, 99)) * 1e3,
        },
    )


if __name__ == "__main__":
    main()
