"""History: time and peak memory of `get_historical_features`.

    python benchmarks/history.py flights
    python benchmarks/history.py make --directory DIR [--gigabytes 6] [--order time|card]
    python benchmarks/history.py read --directory DIR [--rows 100000] [--limit-mb 2048]

`flights` computes every windowed feature of feature_repo for all 336,776 flights, and compares each
value with an oracle in NumPy (tests/support/flights_history.py) before it prints.

`make` writes an archive of card payments, in the order of time (more or less: 5 % are up to two
minutes late) or of cards; `read` computes features at random rows of it, by what the Feast plug-in
calls, with `--limit-mb` as a hard limit on the memory that the process may allocate (RLIMIT_DATA),
and recomputes a sample from the raw events before it prints. Peak memory is the process's own
high-water mark (VmHWM), libraries included. `materialize.py` takes the same archive.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from machine import machine

from streamsvc.columns import strings
from streamsvc.definitions.plan import (
    Aggregate,
    EventField,
    EventSchema,
    JoinKey,
    Source,
    View,
)
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.settings import Settings

ROOT = Path(__file__).parents[1]
START_MS = 1_700_000_000_000
CARDS, FILE_ROWS = 200_000, 4_000_000
EVENTS_A_SECOND = 40
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
AGGREGATES = tuple(
    sorted(
        (
            Aggregate(f"{function}_{name}", "amount", function, window, window // 60)
            for name, window in (("10m", 10 * MINUTE), ("1d", DAY), ("7d", 7 * DAY))
            for function in ("count", "sum", "max")
        ),
        key=lambda a: a.feature,
    )
)


def status_mb(name: str) -> float:
    """A line of /proc/self/status, MB."""
    status = Path("/proc/self/status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    return int(line.split()[1]) / 1024


def peak_mb() -> float:
    """The most memory that this process ever had, MB."""
    return status_mb("VmHWM")


def flights() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from support.flights_history import expected_history

    from streamsvc.demo import feast_repo
    from streamsvc.demo import flights as data

    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as directory:
        repo = Path(directory) / "flights"
        ignored = shutil.ignore_patterns("data", ".streamsvc", "__pycache__")
        shutil.copytree(ROOT / "feature_repo", repo, ignore=ignored)
        data.write_flights(repo / "data")
        import pandas as pd

        with contextlib.redirect_stdout(sys.stderr):
            feast_repo.apply(repo)
        store = feast_repo.open_store(repo)
        asked = pd.read_parquet(repo / "data" / data.LABELS).drop(columns=["arr_delay", "late"])
        before, began = peak_mb(), time.perf_counter()
        job = store.get_historical_features(
            asked, store.get_feature_service("late_arrival"), full_feature_names=True
        )
        found = job.to_arrow()
        took, peak = time.perf_counter() - began, peak_mb()
        position = {f: i for i, f in enumerate(found.column("flight_id").to_pylist())}
        order = [position[f] for f in asked["flight_id"]]
        wanted = expected_history(store, repo / "data", asked)
        values = 0
        for name, want in wanted.items():
            got = found.column(name).to_numpy()[order].astype(np.float64)
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9, err_msg=name)
            values += len(want)
    print(machine("feast", "pyarrow", "numba"))
    print(
        f"flights: {len(asked):,} rows x {len(wanted)} windowed features: {values:,} values equal"
    )
    print(f"  {took:.1f} s; peak {peak:,.0f} MB, of which {before:,.0f} MB before the call")


def make(directory: Path, gigabytes: float, order: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(1)
    cards = pa.array([f"card-{i:07d}" for i in range(CARDS)])
    files = max(1, round(gigabytes * 1e9 / 200e6))
    began = time.perf_counter()
    for i in range(files):
        n = FILE_ROWS
        if order == "time":
            at = START_MS + (np.arange(i * n, (i + 1) * n) * 1_000) // EVENTS_A_SECOND
            at -= np.where(rng.random(n) < 0.05, rng.integers(0, 2 * MINUTE, n), 0)
            card = rng.integers(0, CARDS, n)
        else:
            at = START_MS + rng.integers(0, files * n * 1_000 // EVENTS_A_SECOND, n)
            card = np.sort(rng.integers(i * CARDS // files, (i + 1) * CARDS // files, n))
        table = pa.table(
            {
                "card": pa.DictionaryArray.from_arrays(pa.array(card.astype(np.int32)), cards),
                "amount": rng.gamma(2.0, 30.0, n),
                "at": pa.array(at, pa.timestamp("ms", "UTC")),
                "payment": rng.integers(0, 2**62, n),
                "signature": pa.Array.from_buffers(
                    pa.binary(24), n, [None, pa.py_buffer(rng.bytes(24 * n))]
                ),
            }
        ).cast(
            pa.schema(
                [
                    ("card", pa.string()),
                    ("amount", pa.float64()),
                    ("at", pa.timestamp("ms", "UTC")),
                    ("payment", pa.int64()),
                    ("signature", pa.binary(24)),
                ]
            )
        )
        pq.write_table(
            table,
            directory / f"{i:04d}.parquet",
            compression="snappy",
            row_group_size=131_072,
            use_dictionary=["card"],
        )
    size = sum(f.stat().st_size for f in directory.glob("*.parquet"))
    took = time.perf_counter() - began
    print(f"{files * FILE_ROWS:,} payments, {size / 1e9:.2f} GB, in {took:.0f} s")


def view_of(directory: Path) -> View:
    fields = (
        EventField("card", ("card",), "string"),
        EventField("amount", ("amount",), "float64"),
        EventField("at", ("at",), "string"),
    )
    source = Source(
        name="payments",
        topic="payments",
        schema=EventSchema(fields, "at"),
        allowed_lateness_ms=2 * MINUTE,
        max_future_ms=0,
        key_field=None,
        archive_path=str(directory),
    )
    return View(
        name="spend",
        source=source,
        join_keys=(JoinKey("card", "string"),),
        aggregates=AGGREGATES,
        feature_types={a.feature: "Float64" for a in AGGREGATES},
        udf=None,
        ttl_ms=None,
        definition_hash="",
        column_types={"amount": "float64"},
    )


def check(directory: Path, asked: list[tuple[str, int, dict[str, Any]]]) -> None:
    """Compare (card, instant, values) with the raw events of those cards."""
    cards = pa.array(sorted({card for card, *_ in asked}))
    events = ds.dataset(str(directory)).to_table(
        columns=["card", "amount", "at"], filter=ds.field("card").isin(cards)
    )
    frame = events.to_pandas()
    at = events.column("at").cast(pa.int64()).to_numpy()
    for card, t, values in asked:
        mine = (frame["card"] == card).to_numpy()
        for a in AGGREGATES:
            inside = mine & (at >= (t - a.window_ms) // a.hop_ms * a.hop_ms) & (at <= t)
            amounts = frame["amount"].to_numpy()[inside]
            got = values[a.feature]
            if a.function == "count":
                want: Any = len(amounts)
            elif not len(amounts):
                want = None
            else:
                want = amounts.sum() if a.function == "sum" else amounts.max()
            assert got == want or abs(got - want) <= 1e-9 * abs(want), (card, t, a, got, want)


def last_ms(directory: Path) -> int:
    latest = max(
        pq.read_metadata(f).row_group(g).column(2).statistics.max
        for f in sorted(directory.glob("*.parquet"))[-1:]
        for g in range(pq.read_metadata(f).num_row_groups)
    )
    return int(latest.timestamp() * 1_000)


def limited(limit_mb: int) -> None:
    """Allow no more; what libraries have reserved and never touched does not count."""
    untouched = status_mb("VmData") - status_mb("VmRSS")
    most = int(limit_mb + untouched) << 20
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def read(directory: Path, rows: int, memory: int) -> None:
    from streamsvc.feast.windowed_history import Question, windowed_features

    rng = np.random.default_rng(7)
    end = last_ms(directory)
    names = [f"card-{i:07d}" for i in rng.integers(0, CARDS, rows)]
    times = rng.integers(START_MS, end, rows)
    question = Question(
        view_of(directory),
        [a.feature for a in AGGREGATES],
        encode_entity_keys([strings(names)]),
        times,
    )
    before, began = peak_mb(), time.perf_counter()
    (found,) = windowed_features([question], memory)
    took, peak = time.perf_counter() - began, peak_mb()
    columns = {name: column.to_pylist() for name, column in found.items()}
    some = rng.integers(0, rows, 100).tolist()
    check(
        directory,
        [(names[i], int(times[i]), {n: c[i] for n, c in columns.items()}) for i in some],
    )
    print(f"{describe(directory)}, {rows:,} rows x {len(AGGREGATES)} features (100 rows checked):")
    print(f"  {took:.0f} s; peak {peak:,.0f} MB, of which {before:,.0f} MB before the call")


def describe(directory: Path) -> str:
    files = sorted(directory.glob("*.parquet"))
    events = sum(pq.read_metadata(f).num_rows for f in files)
    return f"{sum(f.stat().st_size for f in files) / 1e9:.2f} GB, {events:,} events"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["flights", "make", "read"])
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--order", choices=["time", "card"], default="time")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--limit-mb", type=int, default=2_048)
    parser.add_argument(
        "--memory-mb", type=int, default=Settings.model_fields["history_memory_mb"].default
    )
    given = parser.parse_args()
    if given.what == "flights":
        flights()
        return
    if given.directory is None:
        parser.error("--directory is needed")
    if given.what == "make":
        make(given.directory, given.gigabytes, given.order)
        return
    import streamsvc.feast  # noqa: F401 - the libraries count, too

    limited(given.limit_mb)
    print(machine("feast", "pyarrow", "numba"))
    read(given.directory, given.rows, given.memory_mb << 20)
    assert peak_mb() <= given.limit_mb
    print(f"  limit {given.limit_mb:,} MB, history_memory_mb {given.memory_mb:,}")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    main()
