"""A scoring worker against the loop that a Feast user writes today, in one run.

    python benchmarks/scoring_against.py [--requests 300000]

Run it in the directory that `streamsvc up` was run in. The work is that of `scoring.py throughput`:
26 features of two windowed views and a batch view, one model in Triton, predictions on a topic. The
loops answer the first requests of the same topic, with Feast's own Redis store in the same server
holding the same values, through the SDK and through Feast's feature server, in batches of 500 and
one by one. Their scores are compared with those of the worker before a number is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import results
from machine import machine
from report import table
from scoring import PARTITIONS, Throughput, names, predictions, throughput, values_of
from scoring_loops import FeastRepo, Features, Loop, feature_server

from streamsvc.definitions.plan import Plan
from streamsvc.settings import Settings, load_settings
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.reader import EARLIEST, read_to_end

PARTITION = 0
BATCH, BATCHED, SINGLE = 500, 5_000, 300
"""Requests at once; how many are answered in batches, and how many one by one."""


async def first_requests(settings: Settings, topic: str, n: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    async for chunk in read_to_end(settings, topic, {PARTITION: EARLIEST}):
        for i in range(min(len(chunk), n - len(found))):
            value = chunk.value(i)
            assert value is not None
            found.append(msgspec.json.decode(value))
    return found


def filled(settings: Settings, running: Plan, directory: Path) -> FeastRepo:
    """A Feast repo that holds what the first requests ask for."""
    # The first batch of a loop is not counted, so each reads a batch more.
    wanted = asyncio.run(first_requests(settings, running.project, BATCHED + 2 * BATCH))
    repo = FeastRepo(settings, running, directory)
    cards = np.unique([int(r["card"].removeprefix("card-")) for r in wanted])
    shops = np.unique([r["shop"] for r in wanted])
    for view in (*running.views, *running.batch_views):
        ids = shops if view.name == "shops" else cards
        columns = {
            feature: column[ids].astype(np.int64)
            if view.feature_types[feature] == "Int64"
            else column[ids]
            for feature, column in values_of(view, int(ids.max()) + 1).items()
        }
        repo.write(view, ids.tolist() if view.name == "shops" else names(ids), columns)
    return repo


def against(settings: Settings, found: Throughput, repo: FeastRepo, features: Features, by: str):
    """Rows of the loop's two forms."""
    worker = {
        p["source"]["offset"]: p["score"]  # type: ignore[index]
        for p in asyncio.run(predictions(settings, f"predictions.{found.plan.project}"))
        if p["source"]["partition"] == PARTITION  # type: ignore[index]
    }
    for batch, n, how in ((BATCH, BATCHED, f"batches of {BATCH}"), (1, SINGLE, "one by one")):
        loop = Loop(f"{by}, {how}", features, batch, n)
        rate, cpu, scores = loop.run(settings, found.plan, PARTITION)
        wanted = [worker[offset] for offset in scores]
        np.testing.assert_allclose(list(scores.values()), wanted, atol=1e-6)
        yield {
            "who": loop.name,
            "predictions/s": rate,
            "CPU of the process, µs each": cpu * 1e6,
            "streamsvc, times that": found.rate / rate,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=300_000)
    options = parser.parse_args()
    settings = load_settings()
    found = throughput(settings, options.requests, once=False)
    Admin(settings).ensure([TopicSpec(f"loop-{found.plan.project}", PARTITIONS)])
    rows = [
        {
            "who": "streamsvc, every vector logged",
            "predictions/s": found.rate,
            "CPU of the process, µs each": found.cpu_s * 1e6,
            "streamsvc, times that": 1.0,
        }
    ]
    with tempfile.TemporaryDirectory() as directory:
        repo = filled(settings, found.plan, Path(directory))
        rows += against(settings, found, repo, repo.by_sdk, "Feast SDK + Triton client")
        with feature_server(repo.directory) as address:
            server = repo.by_server(address)
            rows += against(settings, found, repo, server, "Feast's feature server + Triton client")
        repo.store.teardown()
    print(machine("feast", "tritonclient", "xgboost"))
    print(table(rows))
    results.write(
        "scoring_against",
        rows,
        "feast",
        "tritonclient",
        "xgboost",
        note=(
            f"One process each, 26 features of three views, {settings.model_server}; "
            f"{found.requests:,} requests of which the loops answer the first, with equal scores."
        ),
        figures={
            "predictions_per_s": found.rate,
            "predictions_times_batches": rows[1]["streamsvc, times that"],
            "predictions_times_single": rows[2]["streamsvc, times that"],
        },
    )


if __name__ == "__main__":
    main()
