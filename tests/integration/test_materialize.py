"""`feast materialize` with windowed views, against history at the same instant."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.orders import DAY, HOUR, START_MS, applied, expected, in_utc, store

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.feast.online_store import row_layout
from streamsvc.store.client import connect
from streamsvc.store.reader import RowReader
from streamsvc.store.row import NEVER_MS, Rows
from streamsvc.store.sweep import delete_project
from streamsvc.store.writer import FencedWriter

VIEWS = ("buyer_spend", "buyer_habits", "buyer_newest", "buyer_at_shop")
BUYERS = ["ann", "bob", "cid", "dot", "eve"]  # eve never ordered anything
MIDWAY, END, LATER = (START_MS + ms for ms in (DAY + 7 * HOUR + 1, 3 * DAY, 5 * DAY))


def at(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1_000, UTC)


def packed(stack: Any) -> tuple[tuple[str, str, str], ...]:
    url = stack.settings.redis_url.get_secret_value()
    store_line = f"type: streamsvc.feast.PackedRedisOnlineStore\n  connection_string: {url}"
    yaml = "feature_store.yaml"
    return (
        (yaml, "project: orders", f"project: {stack.unique('m').replace('-', '_')}"),
        (yaml, "type: sqlite\n  path: data/online.db", store_line),
    )


def made(path: Path, *replacements: tuple[str, str, str]) -> Path:
    applied(path, *replacements)
    # Feast's DuckDB store cannot materialize timestamps in nanoseconds, which pandas writes.
    file = path / "data" / "ratings.parquet"
    pd.read_parquet(file).to_parquet(file, coerce_timestamps="us")
    return path


@pytest.fixture
def repo(stack: Any, tmp_path: Path) -> Iterator[Path]:
    path = made(tmp_path / "repo", *packed(stack))
    yield path
    delete_project(connect(stack.settings), store(path).config.project)


def entities() -> pd.DataFrame:
    return pd.DataFrame(
        [{"buyer_id": buyer, "shop_id": shop} for buyer in BUYERS for shop in (1, 2, 3)]
    )


def features(feasts: Any) -> list[str]:
    return [
        f"{name}:{feature.name}"
        for name in VIEWS
        for feature in feasts.get_stream_feature_view(name).features
        # Feast lists join keys among the features.
        if feature.name not in feasts.get_stream_feature_view(name).join_keys
    ]


def online(repo: Path) -> pd.DataFrame:
    feasts = store(repo)
    asked = entities().to_dict("list")
    found = feasts.get_online_features(features(feasts), asked, full_feature_names=True)
    return found.to_df()


def history(repo: Path, at_ms: int) -> pd.DataFrame:
    feasts = store(repo)
    asked = entities().assign(event_timestamp=in_utc([at_ms] * len(entities())))
    job = feasts.get_historical_features(asked, features(feasts), full_feature_names=True)
    return job.to_df()


def assert_served(repo: Path, at_ms: int) -> None:
    """Online is what history says, for entities that have a row; the others were never heard of."""
    found, want = online(repo), history(repo, at_ms)
    heard = pd.read_parquet(repo / "data" / "orders.parquet")
    heard = heard[heard["placed_at"] <= at(at_ms)]
    buyers = set(heard["buyer_id"].dropna())
    sold = heard[heard["pieces"] > 0].dropna(subset=["buyer_id", "shop_id"])
    pairs = set(zip(sold["buyer_id"], sold["shop_id"], strict=True))
    compared = 0
    for i, (buyer, shop) in enumerate(zip(found["buyer_id"], found["shop_id"], strict=True)):
        for name in found.columns.drop(["buyer_id", "shop_id"]):
            got, value = found[name][i], want[name][i]
            known = (buyer, shop) in pairs if name.startswith("buyer_at_shop") else buyer in buyers
            if not known:
                assert pd.isna(got), (buyer, shop, name)
            elif pd.isna(value):
                assert pd.isna(got), (buyer, shop, name, got)
            else:
                compared += 1
                same = got == value if isinstance(value, str) else math.isclose(got, value)
                assert same, (buyer, shop, name, got, value)
    assert compared > 100


def feast(repo: Path, *command: str) -> str:
    done = subprocess.run(
        [str(Path(sys.executable).parent / "feast"), *command],
        cwd=repo,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(stack: Any, repo: Path, view: str) -> Rows:
    """The stored rows of all buyers, from the store itself."""
    feasts = store(repo)
    table = feasts.get_stream_feature_view(view)
    reader = RowReader(connect(stack.settings), feasts.config.project)
    return reader.read(view, row_layout(table), encode_entity_keys([strings(BUYERS)]))


def test_the_commands_write_what_history_says(stack: Any, repo: Path) -> None:
    said = feast(repo, "materialize", at(START_MS - DAY).isoformat(), at(MIDWAY).isoformat())
    assert "buyer_spend: 4 rows" in said
    assert_served(repo, MIDWAY)
    # The batch view beside them is Feast's own, and is there too.
    stars = store(repo).get_online_features(["shop_rating:stars"], {"shop_id": [1]}, True)
    assert set(stars.to_dict()) == {"shop_id", "shop_rating__stars"}

    written = rows(stack, repo, "buyer_spend")
    assert written.present.tolist() == [True] * 4 + [False]
    assert set(written.incarnation[:4].tolist()) == {0}
    assert (written.as_of[:4] <= MIDWAY).all()
    assert (written.valid_until[:4] > MIDWAY).all()

    feast(repo, "materialize-incremental", at(END).isoformat())
    assert_served(repo, END)
    feast(repo, "materialize-incremental", at(LATER).isoformat())
    assert_served(repo, LATER)  # everything has left the windows by then
    assert (rows(stack, repo, "buyer_spend").valid_until[:4] == NEVER_MS).all()


def test_the_oracle_agrees(repo: Path) -> None:
    store(repo).materialize(at(START_MS), at(END), feature_views=["buyer_spend"])
    archive = pd.read_parquet(repo / "data" / "orders.parquet")
    asked = entities().assign(event_timestamp=in_utc([END] * 15), offered=1.0, row=range(15))
    want = expected(archive, asked)
    found = online(repo)
    for name in ("orders_10m", "spent_10m", "price_spread", "first_price", "last_price"):
        got = pd.to_numeric(found[f"buyer_spend__{name}"])[:12].to_numpy(np.float64)
        np.testing.assert_allclose(got, want[name][:12].to_numpy(np.float64), rtol=1e-9)


def test_it_never_goes_back(stack: Any, repo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    feasts = store(repo)
    feasts.materialize(at(START_MS), at(END), feature_views=["buyer_spend"])
    before = rows(stack, repo, "buyer_spend")
    capsys.readouterr()
    feasts.materialize(at(START_MS), at(MIDWAY), feature_views=["buyer_spend"])
    assert "buyer_spend: 0 rows; 4 stayed" in capsys.readouterr().out
    after = rows(stack, repo, "buyer_spend")
    assert after.as_of.tolist() == before.as_of.tolist()
    # The same again is no step back.
    feasts.materialize(at(START_MS), at(END), feature_views=["buyer_spend"])
    assert "buyer_spend: 4 rows\n" in capsys.readouterr().out


def test_what_a_worker_wrote_stays(
    stack: Any, repo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    feasts = store(repo)
    layout = row_layout(feasts.get_stream_feature_view("buyer_spend"))
    values = {name: numeric([7.0]) for name in layout.features}
    # Long before END: it is the worker that ages it, and its position must stay the greater one.
    mine = layout.pack(values, 1, 5, np.array([START_MS]), np.array([START_MS + 1]))
    key = encode_entity_keys([strings(["bob"])])
    writer = FencedWriter(connect(stack.settings), feasts.config.project)
    assert writer.write("buyer_spend", key, mine) == 0
    feasts.materialize(at(START_MS), at(END), feature_views=["buyer_spend"])
    assert "buyer_spend: 3 rows; 1 stayed" in capsys.readouterr().out
    stored = rows(stack, repo, "buyer_spend")
    assert stored.incarnation.tolist() == [0, 1, 0, 0, 0]
    assert stored.values["spent_10m"].to_pylist()[1] == 7.0
    # And the worker's next row replaces what was materialized.
    next_one = layout.pack(values, 1, 6, np.array([START_MS]), np.array([START_MS + 1]))
    ann = encode_entity_keys([strings(["ann"])])
    assert writer.write("buyer_spend", ann, next_one) == 0


def test_any_online_store_of_feast_takes_the_values(tmp_path: Path) -> None:
    repo = made(tmp_path / "repo")
    store(repo).materialize(at(START_MS), at(MIDWAY))
    # buyer_spend has a ttl, which that store does not hold against it either.
    assert_served(repo, MIDWAY)


def test_an_archive_that_cannot_be_read_is_named(repo: Path) -> None:
    (repo / "data" / "orders.parquet").unlink()
    with pytest.raises(Exception, match="archive of KafkaSource 'orders' cannot be read"):
        store(repo).materialize(at(START_MS), at(END), feature_views=["buyer_spend"])
