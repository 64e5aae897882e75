"""The payments template, as its README says, on a bank of a few thousand cards."""

from __future__ import annotations

import json
import re
import shlex
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from support.card_payments import RunningBank
from support.command_line import parse
from support.explained import assert_explained
from support.flights import read_all

from streamsvc.cli.templates import template_path
from streamsvc.demo.offline import read_served_log
from streamsvc.models.training_data import matrix_of

README = (template_path("payments") / "README.md").read_text()


def test_every_payment_is_answered_from_features_that_contain_it(triton, tmp_path: Path) -> None:
    # In lockstep nothing may be missing, however long it takes.
    patience = {"STREAMSVC_FRESHNESS_WAIT_MS": "60000", "STREAMSVC_DEADLINE_MS": "120000"}
    with RunningBank(triton, tmp_path, **patience) as bank:
        live = bank.generate(cards=200_000, days=0.04, live_minutes=0.2)
        bank.apply()
        labels = ("--labels", "data/labels.parquet", "--label-column", "fraud")
        trained = json.loads(bank.streamsvc("train", bank.service, *labels, "--json"))
        assert trained["loaded"]
        # The same in parts, and boosted from the disk.
        bank.environment["STREAMSVC_TRAINING_MEMORY_MB"] = "1"
        parts = json.loads(bank.streamsvc("train", bank.service, *labels, "--json"))
        assert parts["rows"] * len(parts["features"]) * 32 > 2**20
        boosters = [Path(each["path"], "xgboost.ubj") for each in (trained, parts)]
        assert boosters[0] != boosters[1]
        assert boosters[0].read_bytes() == boosters[1].read_bytes()
        bank.start_worker("features")
        bank.streamsvc("produce", "payments", "--until", live)
        bank.send_clocks(pd.Timestamp(live).value // 1_000_000)  # or it goes on with the wall
        bank.start_worker("scoring", "scoring")
        # It begins at the end of the topic, so it must have seen that end.
        bank.wait_until(lambda: "scoring_worker_started" in bank.log_of("scoring"))
        bank.streamsvc("produce", "payments", "--from", live, "--lockstep")

        outcomes = bank.outcomes
        answers = [json.loads(m.value()) for m in read_all(bank, bank.predictions)]
        assert len(answers) == len(outcomes), "the payments before the live part ask for nothing"
        assert {(a["fallback"], a["stale_ms"]) for a in answers} == {(None, 0)}
        # A payment and the clock behind it are two records: time passes between them.
        ahead = {(a["entity"]["card_id"], a["request_time_ms"]) for a in answers if a["ahead_ms"]}
        assert len(ahead) < 0.05 * len(answers)
        told = {(a["entity"]["card_id"], a["request_time_ms"]): a["decision"] for a in answers}
        at = outcomes["event_timestamp"].astype("int64")
        yes = np.array([told[key] for key in zip(outcomes["card_id"], at, strict=True)])
        kind = outcomes["kind"].to_numpy()
        assert yes[np.isin(kind, [f"trial {i}" for i in (3, 4, 5)])].mean() > 0.9
        assert yes[kind == "honest"].mean() < 0.2

        log = read_served_log(bank.settings, f"served.{bank.service}")
        assert list(log.features) == trained["features"]
        served = {
            (a["entity"]["card_id"], a["request_time_ms"]): log.matrix[log.row[a["prediction_id"]]]
            for a in answers
        }
        service = bank.store.get_feature_service(bank.service)
        history = bank.store.get_historical_features(outcomes, service, full_feature_names=True)
        table = history.to_arrow()
        at = table.column("event_timestamp").cast("timestamp[ms]").cast("int64").to_pylist()
        want = matrix_of(table, trained["features"])
        assert len(served) == len(want)
        for key, row in zip(zip(table["card_id"].to_pylist(), at, strict=True), want, strict=True):
            if key not in ahead:
                np.testing.assert_array_equal(served[key], row)

        fifth = outcomes[outcomes["kind"] == "trial 5"].iloc[0]
        key = fifth["card_id"], fifth["event_timestamp"].value // 1_000_000
        (answer,) = (a for a in answers if (a["entity"]["card_id"], a["request_time_ms"]) == key)
        vector = dict(zip(trained["features"], served[key].tolist(), strict=True))
        told = assert_explained(bank, answer, vector)
        assert vector["card_seconds:payments_5s"] >= 4
        assert told["request"]["card_id"] == fifth["card_id"]
        assert {view["view"] for view in told["views"]} == {
            "card_seconds",
            "card_minutes",
            "card_days",
        }
        # The row was last changed by the payment itself.
        assert {view["age_ms"] for view in told["views"]} == {0}

        labels = ("--labels", "data/outcomes.parquet", "--label-column", "fraud", "--served")
        again = json.loads(bank.streamsvc("train", bank.service, *labels, "--json"))
        assert again["loaded"]
        assert (again["version"], again["features"]) == (3, trained["features"])
        parts = again["metrics"]["validation_rows"], again["metrics"]["test_rows"]
        assert again["rows"] + sum(parts) == len(outcomes)
        assert_rolled_out(bank)


def assert_rolled_out(bank: RunningBank) -> None:
    """Version 3, made while the worker runs version 2, is promoted and undone by hand."""
    rollout = partial(bank.streamsvc, "rollout")
    status = json.loads(rollout("status", bank.service, "--json"))
    (worker,) = status["workers"]
    assert (status["wanted"]["revision"], status["wanted"]["champion"]) == (0, 2)
    assert (worker["applied"], worker["champion"], worker["refused"]) == (True, 2, None)
    told = json.loads(
        rollout("promote", bank.service, "--model", "3", "--why", "fresher", "--json")
    )
    assert [w["champion"] for w in told["workers"] if w["applied"]] == [3]
    assert "is the champion" in rollout("promote", bank.service, "--model", "3", code=2)
    text = rollout("undo", bank.service)
    assert "version 2 is champion" in text
    assert re.search(r"applied after \d+\.\d\d s", text)
    done = json.loads(rollout("history", bank.service, "--json"))
    assert [(d["action"], d["champion"], d["why"]) for d in done] == [
        ("promote", 3, "fresher"),
        ("undo", 2, "by hand"),
    ]
    assert "fresher" in rollout("history", bank.service)
    assert worker["worker"] in rollout("status", bank.service)


def test_commands_of_the_readme_parse() -> None:
    (block,) = re.findall(r"^```sh\n(.*?)^```", README, re.M | re.S)
    commands = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert [words[0] for words in commands if words[0] not in ("streamsvc", "feast")] == ["python"]
    for words in commands:
        if words[0] == "streamsvc":
            parse(words[1:])


def test_files_of_the_readme_are_there() -> None:
    told = set(re.findall(r"^\| `([^`]+)` \|", README, re.M))
    there = {f.name for f in template_path("payments").iterdir() if f.is_file()}
    assert told == {f for f in there if not f.startswith(".")} - {"README.md", "entities.py"}
