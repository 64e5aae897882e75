"""`feast materialize` of an archive that is larger than the memory which the process may have.

    python benchmarks/history.py make --directory DIR [--gigabytes 6] [--order time|card]
    python benchmarks/materialize.py --directory DIR [--limit-mb 2048] [--memory-mb 1024]

Runs the command, `feast apply` before it, in a repo of its own with a Valkey of its own: one view
of cards with nine features, up to the archive's last event. `--limit-mb` is a hard limit on the
memory that the process may allocate (RLIMIT_DATA), `--memory-mb` the setting `history_memory_mb`.
Every card must have a row then, and 100 of them are recomputed from the raw events before anything
is printed. Peak memory is the process's own high-water mark (VmHWM), libraries included.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from history import AGGREGATES, CARDS, START_MS, check, describe, last_ms, limited, peak_mb
from machine import machine

from streamsvc.local.stack import LocalStack
from streamsvc.settings import Settings, load_settings

STORE = """\
project: history_benchmark
provider: local
registry: registry.db
online_store:
  type: streamsvc.feast.PackedRedisOnlineStore
offline_store:
  type: streamsvc.feast.WindowedOfflineStore
batch_engine:
  type: streamsvc.feast.WindowedComputeEngine
entity_key_serialization_version: 3
"""
DEFINITIONS = """\
from datetime import timedelta

from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import JsonFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

WINDOWS = {{"10m": timedelta(minutes=10), "1d": timedelta(days=1), "7d": timedelta(days=7)}}
FEATURES = [(f, name) for f in ("count", "sum", "max") for name in WINDOWS]

card = Entity(name="card", join_keys=["card"], value_type=ValueType.STRING)
payments = KafkaSource(
    name="payments",
    topic="payments",
    message_format=JsonFormat(schema_json="card STRING, amount DOUBLE, at STRING"),
    timestamp_field="at",
    watermark_delay_threshold=timedelta(minutes=2),
    batch_source=FileSource(name="archive", path={path!r}, timestamp_field="at"),
)
spend = StreamFeatureView(
    name="spend",
    entities=[card],
    ttl=timedelta(0),
    source=payments,
    timestamp_field="at",
    aggregations=[
        Aggregation("amount", f, WINDOWS[name], WINDOWS[name] / 60, name=f"{{f}}_{{name}}")
        for f, name in FEATURES
    ],
    schema=[
        Field(name="card", dtype=String),
        *(
            Field(name=f"{{f}}_{{name}}", dtype=Int64 if f == "count" else Float64)
            for f, name in FEATURES
        ),
    ],
)
"""


def materialize(directory: Path, memory_mb: int, limit_mb: int) -> None:
    end = last_ms(directory)
    span = [datetime.fromtimestamp(t / 1e3, UTC).isoformat() for t in (START_MS, end)]
    with tempfile.TemporaryDirectory() as made, contextlib.chdir(made):
        repo = Path(made)
        (repo / "feature_store.yaml").write_text(STORE)
        (repo / "definitions.py").write_text(DEFINITIONS.format(path=str(directory)))
        LocalStack(repo).up(["valkey"])
        try:
            os.environ["STREAMSVC_REDIS_URL"] = load_settings(repo).redis_url.get_secret_value()
            os.environ["STREAMSVC_HISTORY_MEMORY_MB"] = str(memory_mb)
            feast = str(Path(sys.executable).parent / "feast")
            subprocess.run([feast, "apply"], check=True, stdout=sys.stderr)
            from feast.cli.cli import cli

            limited(limit_mb)
            before, began = peak_mb(), time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr):
                cli(["materialize", *span], standalone_mode=False)
            took, peak = time.perf_counter() - began, peak_mb()
            rows, sample = online_sample(end)
        finally:
            LocalStack(repo).down()
    assert peak <= limit_mb
    assert rows == CARDS
    check(directory, sample)
    print(f"{describe(directory)}, `feast materialize` of {rows:,} cards ({len(sample)} checked):")
    print(f"  {took:.0f} s; peak {peak:,.0f} MB, of which {before:,.0f} MB before the call")
    print(f"  limit {limit_mb:,} MB, history_memory_mb {memory_mb:,}")


def online_sample(end: int) -> tuple[int, list[tuple[str, int, dict[str, Any]]]]:
    """How many cards the store has a row of, and the features of some at that instant."""
    from feast import FeatureStore

    store = FeatureStore(".")
    names = [f"spend:{a.feature}" for a in AGGREGATES]
    cards = [f"card-{i:07d}" for i in range(CARDS)]
    there = 0
    for low in range(0, CARDS, 10_000):
        asked = {"card": cards[low : low + 10_000]}
        found = store.get_online_features(["spend:count_7d"], asked).to_dict()
        there += sum(value is not None for value in found["count_7d"])
    chosen = np.random.default_rng(3).choice(CARDS, 100, replace=False)
    some = [cards[i] for i in chosen]
    found = store.get_online_features(names, {"card": some}).to_dict()
    return there, [
        (card, end, {a.feature: found[a.feature][i] for a in AGGREGATES})
        for i, card in enumerate(some)
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--limit-mb", type=int, default=2_048)
    parser.add_argument(
        "--memory-mb", type=int, default=Settings.model_fields["history_memory_mb"].default
    )
    given = parser.parse_args()
    print(machine("feast", "pyarrow", "numba"))
    materialize(given.directory.resolve(), given.memory_mb, given.limit_mb)


if __name__ == "__main__":
    main()
