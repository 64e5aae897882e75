"""Historical features through Feast, against the definition of each in plain Python."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support.orders import DAY, HOUR, MINUTE, START_MS, applied, asked, expected, store
from typer.testing import CliRunner

from streamsvc.cli.main import app
from streamsvc.errors import ConfigurationError
from streamsvc.models.local_model import LocalModel
from streamsvc.models.train import TrainingJob, train


@pytest.fixture(scope="module")
def repo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return applied(tmp_path_factory.mktemp("orders") / "repo")


@pytest.fixture(scope="module")
def archive(repo: Path) -> pd.DataFrame:
    return pd.read_parquet(repo / "data" / "orders.parquet")


@pytest.fixture(scope="module")
def entities(archive: pd.DataFrame) -> pd.DataFrame:
    return asked(np.random.default_rng(5), archive)


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


def same(found: pd.Series, wanted: Any, tolerance: float) -> None:
    np.testing.assert_allclose(
        pd.to_numeric(found).to_numpy(np.float64, na_value=np.nan),
        np.asarray(wanted, np.float64),
        rtol=tolerance,
        atol=1e-9,
        err_msg=str(found.name),
    )


def test_every_feature_is_what_its_definition_says(
    repo: Path, archive: pd.DataFrame, entities: pd.DataFrame
) -> None:
    feasts = store(repo)
    service = feasts.get_feature_service("will_buy")
    found = feasts.get_historical_features(entities, service).to_df()
    assert found["row"].tolist() == entities["row"].tolist()
    oracle = expected(archive, entities)
    for name in oracle.columns:
        same(found[name], oracle[name], 1e-6 if name == "usual_price" else 1e-9)
    same(found["stars"], stars(repo, entities, as_known=False), 0)
    # The oracle itself must have something to say.
    assert (oracle["orders_10m"] > 1).sum() > 20
    assert oracle["cheapest"].notna().sum() > 20
    assert 0 < found["stars"].isna().sum() < len(found)


def test_sketches_text_all_time_and_the_newest_row(
    repo: Path, archive: pd.DataFrame, entities: pd.DataFrame
) -> None:
    names = ["shops", "high_price", "usual_price_ever", "orders_ever", "last_channel"]
    refs = [f"buyer_habits:{name}" for name in (*names, "least_channel_ever")]
    refs += [f"buyer_newest:{name}" for name in ("shop_id", "price", "channel")]
    found = store(repo).get_historical_features(entities, refs, full_feature_names=True).to_df()
    kept = archive[archive["placed_at"].notna()].copy()
    kept["at"] = kept["placed_at"].astype("datetime64[ms, UTC]").astype("int64")
    kept = kept.sort_values("at", kind="stable")
    answered = 0
    for row, entity in zip(found.to_dict("records"), entities.to_dict("records"), strict=True):
        if entity["buyer_id"] is None:
            assert all(pd.isna(row[ref.replace(":", "__")]) for ref in refs)
            continue
        t = int(entity["event_timestamp"].timestamp() * 1_000)
        mine = kept[(kept["buyer_id"] == entity["buyer_id"]) & (kept["at"] <= t)]
        day = mine[mine["at"] >= (t - DAY) // HOUR * HOUR]
        hour = mine[mine["at"] >= (t - HOUR) // MINUTE * MINUTE]
        habit = {name: row[f"buyer_habits__{name}"] for name in (*names, "least_channel_ever")}
        assert habit["shops"] == day["shop_id"].nunique()
        assert habit["orders_ever"] == mine["price"].count()
        for name, prices, percent in (
            ("high_price", day["price"], 90),
            ("usual_price_ever", mine["price"], 50),
        ):
            values = np.sort(prices.dropna())
            if len(values):
                want = values[percent * (len(values) - 1) // 100]
                assert habit[name] == pytest.approx(want, rel=1 / 129 + 1e-12)
            else:
                assert pd.isna(habit[name])
        channels = hour["channel"].dropna()
        assert_text(habit["last_channel"], channels.iloc[-1] if len(channels) else None)
        assert_text(habit["least_channel_ever"], mine["channel"].dropna().min())
        newest = mine.iloc[-1] if len(mine) else {}
        for name in ("shop_id", "price"):
            want = newest.get(name, pd.NA)
            got = row[f"buyer_newest__{name}"]
            assert (pd.isna(got) and pd.isna(want)) or got == want
        assert_text(row["buyer_newest__channel"], newest.get("channel"))
        answered += len(channels) > 0
    assert answered > 10


def assert_text(got: Any, want: Any) -> None:
    assert (pd.isna(got) and pd.isna(want)) or got == want


def test_features_may_be_listed_and_named_in_full(
    repo: Path, archive: pd.DataFrame, entities: pd.DataFrame
) -> None:
    refs = ["buyer_spend:orders_10m", "bargain:offered_share", "shop_rating:stars"]
    shuffled = entities.sample(frac=1, random_state=2)
    job = store(repo).get_historical_features(shuffled, refs, full_feature_names=True)
    found = job.to_df()
    assert found["row"].tolist() == shuffled["row"].tolist()
    oracle = expected(archive, shuffled)
    same(found["buyer_spend__orders_10m"], oracle["orders_10m"], 0)
    same(found["bargain__offered_share"], oracle["offered_share"], 1e-9)
    assert "buyer_at_shop__visits" not in found


def test_rows_count_from_when_they_were_known(repo: Path, entities: pd.DataFrame) -> None:
    refs = ["shop_rating:stars", "buyer_spend:orders_10m"]
    job = store(repo).get_historical_features(entities, refs, filter_by_created_timestamp=True)
    wanted = stars(repo, entities, as_known=True)
    same(job.to_df()["stars"], wanted, 0)
    assert not np.array_equal(wanted, stars(repo, entities, as_known=False), equal_nan=True)


def test_what_cannot_be_answered_is_said(repo: Path, entities: pd.DataFrame) -> None:
    refs = ["buyer_spend:orders_10m"]
    with pytest.raises(ConfigurationError, match="no column 'buyer_id'"):
        store(repo).get_historical_features(entities.drop(columns="buyer_id"), refs)
    with pytest.raises(ConfigurationError, match="DataFrame"):
        store(repo).get_historical_features("SELECT 1", refs)
    with pytest.raises(ConfigurationError, match="Two columns are called 'orders_10m'"):
        store(repo).get_historical_features(entities.rename(columns={"row": "orders_10m"}), refs)
    holes = entities.assign(event_timestamp=pd.NaT)
    with pytest.raises(ConfigurationError, match="null"):
        store(repo).get_historical_features(holes, refs)


def write_labels(archive: pd.DataFrame, path: Path) -> None:
    labels = asked(np.random.default_rng(8), archive, 2_000)
    labels["bought"] = labels["offered"] < 0.5
    labels["bought"] = labels["bought"].astype(object).where(labels["row"] % 10 != 0)
    labels.drop(columns="row").to_parquet(path)


def test_a_model_is_trained_from_labels(repo: Path, archive: pd.DataFrame, tmp_path: Path) -> None:
    write_labels(archive, tmp_path / "labels.parquet")
    until = START_MS + 3 * DAY
    job = TrainingJob("will_buy", tmp_path / "labels.parquet", "bought", "buyers", until_ms=until)
    trained = train(repo, tmp_path / "models", job)
    card = trained.card
    assert card.features[0] == "buyer_spend:first_price"
    assert card.features[-2:] == ["shop_rating:stars", "bargain:offered_share"]
    assert len(card.features) == 11
    assert card.trained_until_ms < until
    assert card.metrics["test_rows"] < 2_000 * 0.1
    assert LocalModel(trained.version_dir).predict(card.golden.matrix()).tolist() == (
        card.golden.outputs
    )
    with pytest.raises(ConfigurationError, match="'nobody' is not applied; there are: will_buy"):
        train(repo, tmp_path / "models", TrainingJob("nobody", job.labels, "bought", "m"))


def test_the_command_trains_and_says_what_came_of_it(
    repo: Path, archive: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STREAMSVC_MODEL_SERVER", "in-process")
    write_labels(archive, repo / "data" / "labels.parquet")
    common = ["-c", str(repo), "train", "will_buy", "--labels", "data/labels.parquet"]

    def run(*more: str) -> Any:
        return CliRunner().invoke(app, [*common, *more])

    until = ["--label-column", "bought", "--until", "2024-01-04", "--test-from", "2024-01-03"]
    done = run(*until, "--json")
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout)
    assert (summary["model"], summary["version"], summary["loaded"]) == ("will_buy", 1, False)
    assert (repo / ".streamsvc" / "models" / "will_buy" / "1" / "model.json").is_file()
    assert "buyer_spend:orders_10m" in summary["features"]
    shown = run(*until, "--model", "other")
    assert shown.exit_code == 0, shown.output
    assert "AUC" in shown.stdout
    assert "runs the model itself" in shown.stdout

    for more, message in (
        (["--label-column", "sold"], "no column 'sold'"),
        (["--label-column", "bought", "--until", "soon"], "ISO-8601"),
        (["--label-column", "bought", "--until", "2020-01-01"], "No labelled rows"),
        (["--label-column", "bought", "--model", "a/b"], "name"),
    ):
        failed = run(*more)
        assert failed.exit_code == 2
        assert message in failed.stderr
    wrong = CliRunner().invoke(app, [*common[:3], "nobody", *common[4:]])
    assert wrong.exit_code == 2
    assert "will_buy" in wrong.stderr
