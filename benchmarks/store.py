"""How fast rows of 17 doubles go into the online store behind the fence, and come out as columns.

    STREAMSVC_REDIS_URL=redis://127.0.0.1:6379/0 python benchmarks/store.py [--feast]
    STREAMSVC_REDIS_URL=redis://127.0.0.1:7000 STREAMSVC_REDIS_CLUSTER=true … for a cluster

Nothing is reported before everything that was written has been read back and compared. The times
are the best of several rounds; CPU is what this process and the server spent, which says more than
the clock on a machine that does other things. `--feast` measures the same rows through Feast: the
packed store and Feast's own Redis store.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import BytesColumn, Columns, NumericColumn, numeric
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.feast_import import import_feast
from streamsvc.settings import load_settings
from streamsvc.store.client import Client, connect
from streamsvc.store.cluster import Cluster
from streamsvc.store.reader import RowReader
from streamsvc.store.row import NEVER_MS, PackedRows, RowLayout, Rows
from streamsvc.store.sweep import delete_project
from streamsvc.store.writer import FencedWriter

FEATURES = [f"f{i:02d}" for i in range(17)]
CHUNK = 1_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--feast", action="store_true", help="also through Feast (slow to start)")
    arguments = parser.parse_args()
    settings = load_settings()
    project = f"bench-{uuid.uuid4().hex[:8]}"
    with connect(settings) as client:
        servers = infos(client, "server")
        server = servers[0]
        name = f"{len(servers)} x " * (len(servers) > 1) + server.get("server_name", "redis")
        name += f" {server.get('valkey_version') or server['redis_version']}"
        print(
            f"{datetime.now(UTC):%Y-%m-%d}  {platform.processor() or platform.machine()}, "
            f"{os.cpu_count()} cores  Python {platform.python_version()}  "
            f"redis-py {version('redis')}  {name}"
        )
        try:
            packed_rows(client, project, arguments.rows, arguments.rounds)
            if arguments.feast:
                through_feast(settings.redis_url.get_secret_value(), project)
        finally:
            delete_project(client, project)


def infos(client: Client, section: str) -> list[dict[str, Any]]:
    """One a server that keeps data."""
    if isinstance(client, Cluster):
        found: list[dict[str, Any]] = [
            client.get_redis_connection(node).info(section) for node in client.get_primaries()
        ]
        return found
    return [client.info(section)]


def packed_rows(client: Client, project: str, n: int, rounds: int) -> None:
    layout = RowLayout(dict.fromkeys(FEATURES, "Float64"))
    writer, reader = FencedWriter(client, project), RowReader(client, project)
    rng = np.random.default_rng(1)
    keys = encode_entity_keys([numeric(rng.permutation(n))])
    values: Columns = {f: NumericColumn(rng.random(n), rng.random(n) > 0.1) for f in FEATURES}
    chunks = [np.arange(i, min(i + CHUNK, n)) for i in range(0, n, CHUNK)]
    stamps = np.zeros(n, np.int64)

    def packed(offset: int, rows: Any = slice(None)) -> PackedRows:
        columns = {f: c.take(rows) for f, c in values.items()}
        at = stamps[rows]
        return layout.pack(columns, 1, offset, at, at + NEVER_MS)

    assert writer.write("rows", keys, packed(1)) == 0
    assert writer.write("rows", keys, packed(1)) == n, "the fence let an equal position through"
    verify(reader.read("rows", layout, keys), values)
    chunk_keys: list[BytesColumn] = [keys.take(rows) for rows in chunks]
    print(f"{n:,} rows of {len(FEATURES)} doubles, chunks of {CHUNK:,}, verified\n")
    print(f"{'':24}{'rows/s':>10}{'us a row':>10}{'client CPU':>12}{'server CPU':>12}")

    offset = 1

    def write() -> None:
        nonlocal offset
        offset += 1
        for rows, chunk in zip(chunks, chunk_keys, strict=True):
            assert writer.write("rows", chunk, packed(offset, rows)) == 0

    def read() -> None:
        for chunk in chunk_keys:
            matrix(reader.read("rows", layout, chunk))

    best(client, "pack + fenced write", write, n, rounds)
    best(client, "read + float32 matrix", read, n, rounds)
    verify(reader.read("rows", layout, keys), values)
    single = keys.take(np.arange(1))
    best(client, "read one row", lambda: reader.read("rows", layout, single), 1, 200)


def matrix(rows: Rows) -> NDArray[np.float32]:
    out = np.empty((len(rows), len(FEATURES)), np.float32)
    for j, feature in enumerate(FEATURES):
        column = rows.values[feature]
        assert isinstance(column, NumericColumn)
        out[:, j] = np.where(column.valid, column.values, np.nan)
    return out


def verify(rows: Rows, values: Columns) -> None:
    assert rows.present.all()
    found = matrix(rows)
    for j, column in enumerate(values.values()):
        assert isinstance(column, NumericColumn)
        wanted = np.where(column.valid, column.values, np.nan).astype(np.float32)
        np.testing.assert_array_equal(found[:, j], wanted)


def best(client: Client, name: str, work: Callable[[], object], n: int, rounds: int) -> None:
    def server_cpu() -> float:
        found = infos(client, "cpu")
        return sum(float(each["used_cpu_user"]) + float(each["used_cpu_sys"]) for each in found)

    measured = []
    for _ in range(rounds):
        server, cpu, wall = server_cpu(), time.process_time(), time.perf_counter()
        work()
        wall = time.perf_counter() - wall
        cpu = time.process_time() - cpu
        measured.append((wall / n, cpu / n, (server_cpu() - server) / n))
    wall, cpu, server = (min(column) for column in zip(*measured, strict=True))
    print(f"{name:24}{1 / wall:>10,.0f}{wall * 1e6:>10.2f}{cpu * 1e6:>12.2f}{server * 1e6:>12.2f}")


def through_feast(url: str, project: str, n: int = 500) -> None:
    import pandas as pd

    import_feast()
    from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
    from feast.types import Float64
    from feast.value_type import ValueType

    entity = Entity(name="k", join_keys=["k"], value_type=ValueType.INT64)
    address, _, database = url.removeprefix("redis://").partition("/")
    sections: dict[str, dict[str, str]] = {
        "packed, through Feast": {
            "type": "streamsvc.feast.PackedRedisOnlineStore",
            "connection_string": url,
        },
        "Feast's Redis store": {
            "type": "redis",
            "connection_string": f"{address},db={database or 0}",
        },
    }
    frame = pd.DataFrame({f: np.random.default_rng(2).random(n) for f in FEATURES})
    frame["k"] = range(n)
    refs = [f"v:{f}" for f in FEATURES]
    rows = [{"k": i} for i in range(n)]
    print(f"\nthrough Feast, {n} rows a call{'write/s':>14}{'read/s':>10}")
    for name, section in sections.items():
        with tempfile.TemporaryDirectory() as directory:
            store = FeatureStore(
                config=RepoConfig(
                    project=project.replace("-", "_"),
                    provider="local",
                    registry=str(Path(directory) / "registry.db"),
                    online_store=section,
                    entity_key_serialization_version=3,
                    repo_path=Path(directory),
                )
            )
            view = FeatureView(
                name="v",
                entities=[entity],
                schema=[Field(name=f, dtype=Float64) for f in FEATURES],
                source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
            )
            store.apply([entity, view])
            writes, reads = [], []
            for _ in range(5):
                frame["event_timestamp"] = datetime.now(UTC)
                started = time.perf_counter()
                store.write_to_online_store("v", frame)
                writes.append(time.perf_counter() - started)
                started = time.perf_counter()
                answer = store.get_online_features(refs, rows).to_dict()
                reads.append(time.perf_counter() - started)
                assert all(answer[f] == frame[f].tolist() for f in FEATURES)
            print(f"{name:30}{n / min(writes):>14,.0f}{n / min(reads):>10,.0f}")
            store.teardown()


if __name__ == "__main__":
    main()
