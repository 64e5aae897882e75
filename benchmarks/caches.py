"""When the caches of a scoring worker pay: what a request costs with them, and without.

    python benchmarks/caches.py [--batches 60] [--rows 256] [--in-process]

Run it in the directory that `streamsvc up` was run in: models run in Triton (`--in-process`: in
this process), rows lie in the store. Of each batch a share of the vectors, or of the entities, was
seen before: 0, 50, 90, 99 %. Each line compares the same batches with a cache and without, turn by
turn in one run, and every score and every row is compared with what it should be before a figure is
printed. Models have 26 features: a cheap one of 100 trees of depth 6, a dear one of 1,000 of depth
8. Rows have 10 features, of 200,000 entities.
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import results
from machine import machine
from report import table

from streamsvc.columns import BytesColumn, numeric
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.models.artifact import Golden, ModelCard
from streamsvc.models.histogram import histogram
from streamsvc.models.local_model import LocalModel
from streamsvc.models.triton_repository import publish, remove, serve
from streamsvc.scoring.cache import ScoreCache
from streamsvc.scoring.fallback import Ladder
from streamsvc.scoring.fetch import StoreReads
from streamsvc.scoring.loaded import LoadedVersion
from streamsvc.scoring.row_cache import RowCache
from streamsvc.scoring.shared_scores import ScoreStore, SharedScores
from streamsvc.settings import Settings, load_settings
from streamsvc.store.client import Client, connect
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.sweep import delete_project
from streamsvc.store.writer import FencedWriter
from streamsvc.store.written import leave_mark

SHARES = (0.0, 0.5, 0.9, 0.99)
FEATURES = 26
MODELS = {"cheap": (100, 6), "dear": (1_000, 8)}
ENTITIES = 200_000
ROW = [f"f{i}" for i in range(10)]
KNOWN = 20_000
"""Vectors, or entities, that were seen before."""


class Vectors:
    """Batches of which a share was seen before, and the rest never."""

    def __init__(self, rows: int) -> None:
        self._rng = np.random.default_rng(0)
        self._rows = rows
        self.known = self._new(KNOWN)

    def batch(self, share: float) -> np.ndarray:
        seen = round(share * self._rows)
        old = self.known[self._rng.integers(0, KNOWN, seen)]
        mixed = np.concatenate([old, self._new(self._rows - seen)])
        return self._rng.permutation(mixed)

    def _new(self, n: int) -> np.ndarray:
        return self._rng.gamma(2, 30, (n, FEATURES)).astype(np.float32)


def train(repository: Path, name: str, trees: int, depth: int) -> LocalModel:
    import xgboost

    rng = np.random.default_rng(0)
    matrix = rng.gamma(2, 30, (4_000, FEATURES)).astype(np.float32)
    labels = (matrix[:, 0] + matrix[:, -1] > 120) ^ (rng.random(4_000) < 0.2)
    parameters = {"objective": "binary:logistic", "max_depth": depth, "eta": 0.05}
    booster = xgboost.train(parameters, xgboost.DMatrix(matrix, labels), trees)
    card = ModelCard(
        model=name,
        version=1,
        service=name,
        features=[f"v:f{i}" for i in range(FEATURES)],
        trained_from_ms=0,
        trained_until_ms=1,
        rows=len(matrix),
        metrics={},
        histograms={},
        score=histogram(matrix[:, 0]),
        golden=Golden([], []),
    )
    return LocalModel(publish(repository, card, bytes(booster.save_raw("ubj"))))


async def scores(
    settings: Settings, client: Client, rows: int, batches: int
) -> list[dict[str, Any]]:
    """Milliseconds of a batch: without a cache, with the worker's, with the one in the store."""
    found_rows = []
    repository = Path(settings.model_repository).absolute()
    for kind, (trees, depth) in MODELS.items():
        name = f"bench-caches-{kind}-{uuid.uuid4().hex[:8]}"
        model = train(repository, name, trees, depth)
        loaded = await LoadedVersion.load(settings, repository / name / "1", strict=True)
        try:
            for share in SHARES:
                vectors = Vectors(rows)
                cache = ScoreCache(FEATURES, 256)
                cache.put(vectors.known, model.predict(vectors.known)[:, None])
                shared = kept_in_store(client, name, model, vectors.known)
                caches = (None, None), (cache, None), (None, shared)
                ladders = [Ladder(loaded.rungs, [0.0], time.monotonic, *each) for each in caches]
                cost: list[list[float]] = [[] for _ in ladders]
                for number in range(batches):
                    batch = vectors.batch(share)
                    wanted = model.predict(batch)
                    turns = list(zip(cost, ladders, strict=True))
                    # Whoever comes first finds servers and processors asleep.
                    for spent, ladder in turns[number % 3 :] + turns[: number % 3]:
                        deadline = np.full(rows, time.monotonic() + 60)
                        began = time.perf_counter()
                        found = await ladder.score(batch, deadline)
                        spent.append(1e3 * (time.perf_counter() - began))
                        assert not found.step.any(), "a fallback answered"
                        np.testing.assert_allclose(found.values[:, 0], wanted, atol=1e-6)
                        if ladder is not ladders[0]:
                            assert abs(found.cached / rows - share) < 0.02, found.cached
                await ladders[2].close()
                without, in_process, in_store = (float(np.median(each)) for each in cost)
                found_rows.append(
                    {
                        "model": f"{kind}, {trees:,} trees",
                        "seen before": f"{share:.0%}",
                        "no cache, ms": without,
                        "`cache_mb`, ms": in_process,
                        "`shared_cache_s`, ms": in_store,
                        "`cache_mb`, times": in_process / without,
                        "`shared_cache_s`, times": in_store / without,
                    }
                )
        finally:
            await loaded.close()
            serve(repository, name, [])
            remove(repository, name, 1)
            delete_project(client, name)
    return found_rows


def kept_in_store(client: Client, name: str, model: LocalModel, known: np.ndarray) -> SharedScores:
    delete_project(client, name)
    store = ScoreStore(client, name, model.card, 3_600)
    for start in range(0, len(known), 1_000):
        part = known[start : start + 1_000]
        store.put(part, model.predict(part)[:, None])
    return SharedScores(store, 10.0)


def rows_of(client: Client, rows: int, batches: int) -> list[dict[str, Any]]:
    """Milliseconds of a read: of all rows, and of those that are not kept."""
    project = f"bench-{uuid.uuid4().hex[:8]}"
    layout = RowLayout(dict.fromkeys(ROW, "Float64"))
    values = {f: numeric(np.arange(ENTITIES) * (i + 1.5)) for i, f in enumerate(ROW)}
    stamps = np.zeros(ENTITIES, np.int64)
    packed = layout.pack(values, 0, 0, stamps, stamps + NEVER_MS)
    keys = encode_entity_keys([numeric(np.arange(ENTITIES))])
    try:
        FencedWriter(client, project).write("slow", keys, packed)
        leave_mark(client, project, "slow")
        return [rows_line(client, project, layout, keys, share, rows, batches) for share in SHARES]
    finally:
        delete_project(client, project)


def rows_line(
    client: Client,
    project: str,
    layout: RowLayout,
    keys: BytesColumn,
    share: float,
    rows: int,
    batches: int,
) -> dict[str, Any]:
    rng, seen = np.random.default_rng(0), round(share * rows)
    cache = RowCache(256, 3_600, time.monotonic)
    readers = [StoreReads(client, project), StoreReads(client, project, {"slow": cache})]
    for start in range(0, KNOWN, 1_000):
        readers[1].read([], [("slow", layout, keys.take(np.arange(start, start + 1_000)))])
    fresh = iter(rng.permutation(np.arange(KNOWN, ENTITIES)).tolist())
    work = []
    for _ in range(batches):
        new = [next(fresh) for _ in range(rows - seen)]
        old = rng.choice(KNOWN, seen, replace=False).tolist()
        work.append(rng.permutation(np.array(old + new, np.int64)))
    spent: list[list[float]] = [[], []]
    server = [0.0, 0.0]
    # Ten at a time, because the server tells of its CPU in steps, and on a busy machine both alike.
    for part in range(0, batches, 10):
        for at, reads in enumerate(readers):
            before = server_cpu(client)
            for ids in work[part : part + 10]:
                chosen = keys.take(ids)
                began = time.perf_counter()
                _, [found] = reads.read([], [("slow", layout, chosen)])
                spent[at].append(1e3 * (time.perf_counter() - began))
                check(found.values, ids)
                assert found.kept == (None if at == 0 else seen)
            server[at] += server_cpu(client) - before
    first, kept = (float(np.median(each)) for each in spent)
    used = [1e6 * each / (rows * batches) for each in server]
    return {
        "seen before": f"{share:.0%}",
        "read each time, ms": first,
        "kept, ms": kept,
        "kept, times": kept / first,
        "the store's CPU, µs a row": used[0],
        "kept, µs a row": used[1],
    }


def check(values: Any, ids: np.ndarray) -> None:
    for i, name in enumerate(ROW):
        np.testing.assert_array_equal(values[name].values, ids * (i + 1.5))


def server_cpu(client: Any) -> float:
    found = client.info("cpu")
    return float(found["used_cpu_user"]) + float(found["used_cpu_sys"])


def unpacking(rows: int, batches: int) -> list[dict[str, Any]]:
    """A view of 40 features of which a model takes one, four, all."""
    found_rows = []
    names = [f"f{i:02d}" for i in range(40)]
    types = dict.fromkeys(names, "Float64")
    whole = RowLayout(types)
    stamps = np.zeros(rows, np.int64)
    values = {f: numeric(np.arange(rows) * (i + 1.5)) for i, f in enumerate(names)}
    packed = whole.pack(values, 0, 0, stamps, stamps + NEVER_MS)
    raw = [packed.row(i) for i in range(rows)]
    for n in (40, 4, 1):
        layout = RowLayout(types, names[:n])
        took = [seconds(lambda layout=layout: layout.unpack(raw)) for _ in range(batches)]
        found = layout.unpack(raw).values
        assert list(found) == names[:n]
        for i, name in enumerate(found):
            np.testing.assert_array_equal(found[name].values, np.arange(rows) * (i + 1.5))
        found_rows.append({"features of 40": n, "ms": 1e3 * float(np.median(took))})
    return found_rows


def seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=60)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--in-process", action="store_true")
    chosen = parser.parse_args(arguments)
    settings = load_settings(Path())
    if chosen.in_process:
        settings = settings.model_copy(update={"model_server": "in-process"})
    print(machine("xgboost", "numpy", "redis"))
    rows, batches = chosen.rows, chosen.batches
    turns = f"the middle of {batches} batches of {rows}, turn by turn."
    with connect(settings) as client:
        tell(
            "caches_scores",
            asyncio.run(scores(settings, client, rows, batches)),
            f"Vectors of {FEATURES} features, models in {settings.model_server}; {turns}",
        )
        tell(
            "caches_rows",
            rows_of(client, rows, batches),
            f"Rows of {len(ROW)} features, of {ENTITIES:,} entities; {turns}",
        )
    tell(
        "caches_unpacking",
        unpacking(rows, batches),
        f"{rows} rows of 40 features of which a model takes some; the middle of {batches} turns.",
    )


def tell(name: str, rows: list[dict[str, Any]], note: str) -> None:
    print(f"\n{note}\n\n{table(rows)}", flush=True)
    results.write(name, rows, "xgboost", "numpy", "redis", note=note)


if __name__ == "__main__":
    main()
