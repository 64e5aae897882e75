"""Orders of buyers at shops (tests/repos/orders), and what their features must be.

The oracle evaluates each definition in plain Python over the events of the archive.
"""

from __future__ import annotations

import importlib.util
import math
import shutil
import statistics
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REPO = Path(__file__).parents[1] / "repos" / "orders"
START_MS = 1_704_067_200_000
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def in_utc(ms: list[int]) -> pd.DatetimeIndex:
    return pd.to_datetime(ms, unit="ms", utc=True)


def events(rng: np.random.Generator, n: int = 3_000) -> pd.DataFrame:
    at = START_MS + rng.integers(0, 3 * DAY, n) // 1_000 * 1_000  # many ties
    frame = pd.DataFrame(
        {
            "buyer_id": rng.choice(["ann", "bob", "cid", "dot", None], n),
            "shop_id": pd.array(rng.integers(1, 4, n), "Int64"),
            "price": np.round(rng.gamma(2, 30, n), 2),
            "pieces": pd.array(rng.integers(0, 5, n), "Int64"),
            "placed_at": in_utc(at.tolist()),
        }
    )
    frame.loc[rng.random(n) < 0.05, "price"] = np.nan
    frame.loc[rng.random(n) < 0.05, "pieces"] = pd.NA
    frame.loc[rng.random(n) < 0.05, "shop_id"] = pd.NA
    frame.loc[rng.random(n) < 0.02, "placed_at"] = pd.NaT
    frame["channel"] = rng.choice(["web", "app", "süd", "", None], n)
    return frame


def ratings(rng: np.random.Generator, n: int = 40) -> pd.DataFrame:
    rated = START_MS + rng.integers(-DAY, 3 * DAY, n)
    return pd.DataFrame(
        {
            "shop_id": rng.integers(1, 3, n),  # shop 3 has none
            "stars": rng.integers(1, 6, n).astype(float),
            "rated_at": in_utc(rated.tolist()),
            "known_at": in_utc((rated + rng.integers(0, DAY, n)).tolist()),
        }
    )


def asked(rng: np.random.Generator, archive: pd.DataFrame, n: int = 400) -> pd.DataFrame:
    ms = START_MS + rng.integers(-HOUR, 4 * DAY, n)
    ties = archive["placed_at"].dropna().sample(n // 2, random_state=1)
    ms[: n // 2] = ties.dt.as_unit("ms").astype("int64").to_numpy()
    return pd.DataFrame(
        {
            "buyer_id": rng.choice(["ann", "bob", "cid", "dot", "eve", None], n),
            "shop_id": rng.integers(1, 4, n),
            "event_timestamp": in_utc(ms.tolist()),
            "offered": rng.random(n),
            "row": np.arange(n),
        }
    )


def applied(path: Path, *replacements: tuple[str, str, str]) -> Path:
    """A copy of the repo at `path` with archives, applied; (file, old, new) are replaced in it."""
    shutil.copytree(REPO, path)
    (path / "data").mkdir()
    for file, old, new in replacements:
        text = (path / file).read_text()
        assert old in text
        (path / file).write_text(text.replace(old, new))
    rng = np.random.default_rng(11)
    events(rng).to_parquet(path / "data" / "orders.parquet")
    ratings(rng).to_parquet(path / "data" / "ratings.parquet")
    apply(path)
    return path


def apply(path: Path) -> None:
    """`feast apply`, in this process."""
    spec = importlib.util.spec_from_file_location("orders_definitions", path / "definitions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    store(path).apply(module.OBJECTS)


def store(repo: Path) -> Any:
    from feast import FeatureStore

    return FeatureStore(repo_path=str(repo))


Rows = list[tuple[int, int, float | None, int | None]]


def of_buyer(archive: pd.DataFrame, **keys: Any) -> Rows:
    """(event time, place in the archive, price, pieces) of the events with these keys."""
    found = []
    for place, event in enumerate(archive.to_dict("records")):
        if pd.isna(event["placed_at"]) or any(
            pd.isna(event[k]) or event[k] != v for k, v in keys.items()
        ):
            continue
        price = None if pd.isna(event["price"]) else float(event["price"])
        pieces = None if pd.isna(event["pieces"]) else int(event["pieces"])
        found.append((int(event["placed_at"].timestamp() * 1_000), place, price, pieces))
    return sorted(found)


def within(rows: Rows, t: int, window: int, hop: int) -> Rows:
    return [row for row in rows if (t - window) // hop * hop <= row[0] <= t]


def maybe(fold: Callable[[list[float]], float], values: list[float], least: int = 1) -> float:
    return fold(values) if len(values) >= least else math.nan


def expected(archive: pd.DataFrame, entities: pd.DataFrame) -> pd.DataFrame:
    rows = []
    events_of = cache(lambda **keys: of_buyer(archive, **keys))
    for entity in entities.to_dict("records"):
        t = int(entity["event_timestamp"].timestamp() * 1_000)
        who, where = entity["buyer_id"], entity["shop_id"]
        if who is None:
            rows.append({})
            continue
        mine = events_of(buyer_id=who)
        short = [r[2] for r in within(mine, t, 10 * MINUTE, MINUTE) if r[2] is not None]
        day = within(mine, t, DAY, HOUR)
        prices = [r[2] for r in day if r[2] is not None]
        here = within(events_of(buyer_id=who, shop_id=where), t, HOUR, MINUTE)
        each = [r[2] / r[3] for r in here if r[3] and r[2] is not None]
        rows.append(
            {
                "orders_10m": len(short),
                "spent_10m": maybe(math.fsum, short),
                "usual_price": maybe(statistics.fmean, prices),
                "price_spread": maybe(statistics.stdev, prices, 2),
                "most_pieces": maybe(max, [r[3] for r in day if r[3] is not None]),
                "last_price": prices[-1] if prices else math.nan,
                "first_price": prices[0] if prices else math.nan,
                "visits": len(each),
                "cheapest": maybe(min, each),
            }
        )
    found = pd.DataFrame(rows)
    found["offered_share"] = entities["offered"].to_numpy() / found["last_price"]
    return found


def stars(repo: Path, entities: pd.DataFrame, *, as_known: bool) -> list[float]:
    given = pd.read_parquet(repo / "data" / "ratings.parquet").to_dict("records")
    found = []
    for entity in entities.to_dict("records"):
        t = entity["event_timestamp"]
        alive = [
            r
            for r in given
            if r["shop_id"] == entity["shop_id"]
            and r["rated_at"] <= t <= r["rated_at"] + pd.Timedelta(days=2)
            and (not as_known or r["known_at"] <= t)
        ]
        best = max(alive, key=lambda r: (r["rated_at"], r["known_at"]), default=None)
        found.append(math.nan if best is None else best["stars"])
    return found
