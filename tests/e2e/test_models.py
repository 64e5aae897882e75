"""A model's life by commands: registered, listed, described, refused, reconciled, deleted."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import kinds
from support.repo import RunningRepo

from streamsvc.models.triton_control import TritonControl

FEATURES = [
    "card_spend:count_amount_600s",
    "card_spend:last_amount",
    "card_spend:mean_amount_3600s",
    "card_spend:sum_items_86400s",
    "shop_sales:count_amount_3600s",
]


@pytest.fixture
def repo(triton, tmp_path):
    settings = triton.settings
    with RunningRepo(
        triton,
        tmp_path,
        "payments",
        STREAMSVC_TRITON_GRPC_URL=settings.triton_grpc_url,
        STREAMSVC_MODEL_REPOSITORY=str(triton.model_repository),
    ) as running:
        name = triton.unique("risk")
        edit(running.path / "services.py", 'model="payment_risk"', f'model="{name}"')
        running.model = name
        running.apply()
        yield running


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert text.count(before) == 1
    path.write_text(text.replace(before, after))


def files(folder: Path) -> None:
    kinds.xgboost_file(folder / "m.json", "binary:logistic")
    kinds.lightgbm_file(folder / "m.txt", "binary")
    (folder / "features.json").write_text(json.dumps(FEATURES))
    matrix, classes = kinds.data()
    columns = {name.replace(":", "__"): matrix[:, i] for i, name in enumerate(FEATURES)}
    times = pa.array(range(1_000, 1_600), pa.timestamp("ms", "UTC"))
    table = pa.table({"event_timestamp": times, "fraud": classes > 0, **columns})
    pq.write_table(table, folder / "rows.parquet")


def test_a_model_is_registered_served_and_deleted(triton, repo):
    files(repo.path)
    name = repo.model
    common = ["--features", "features.json", "--rows", "rows.parquet", "--label-column", "fraud"]

    def register(file: str, code: int = 0) -> str:
        command = ["models", "register", "payment_risk", "--file", file, *common]
        return repo.streamsvc(*command, *([] if code else ["--json"]), code=code)

    first, second = json.loads(register("m.json")), json.loads(register("m.txt"))
    assert (first["model"], first["version"], first["alias"]) == (name, 1, "champion")
    assert (second["version"], second["alias"], second["kind"]) == (2, "challenger", "lightgbm")
    assert first["loaded"]
    assert second["loaded"]
    assert second["metrics"]["training_auc"] > 0.9
    listed = json.loads(repo.streamsvc("models", "list", "--json"))
    assert [(v["version"], v["aliases"], v["on_disk"]) for v in listed] == [
        (1, ["champion"], True),
        (2, ["challenger"], True),
    ]
    assert name in repo.streamsvc("models", "list")
    described = json.loads(repo.streamsvc("models", "describe", name, "challenger", "--json"))
    assert (described["rows"], described["features"]) == (600, FEATURES)
    assert (described["mismatches"], described["files_found"]) == ([], "as published")
    assert "match the FeatureService" in repo.streamsvc("models", "describe", name)

    # What is promoted is the champion there, too; what has had its turn challenges nobody.
    for command, aliases in (
        (["promote", "payment_risk", "--model", "1"], {1: ["champion"], 2: ["challenger"]}),
        (["undo", "payment_risk"], {2: ["champion"]}),
        (["undo", "payment_risk"], {1: ["champion"]}),
    ):
        repo.streamsvc("rollout", *command)
        listed = json.loads(repo.streamsvc("models", "list", "--json"))
        assert {v["version"]: v["aliases"] for v in listed if v["aliases"]} == aliases

    with TritonControl(triton.settings) as control:
        assert control.ready_versions(name) == [1, 2]
        # As after a restart: nothing of it is known.
        control.unload(name)
        changes = json.loads(repo.streamsvc("models", "reconcile", "--json"))
        assert [(c["version"], c["action"]) for c in changes] == [(1, "loaded"), (2, "loaded")]

        told = repo.streamsvc("models", "delete", name, "champion", code=2)
        assert "is the champion" in told
        told = json.loads(repo.streamsvc("models", "delete", name, "2", "--json"))
        assert told == {"model": name, "version": 2, "unloaded": True}
        assert control.ready_versions(name) == [1]
    assert not (triton.model_repository / name / "2").exists()
    assert [v["version"] for v in json.loads(repo.streamsvc("models", "list", "--json"))] == [1]

    # The same name, over twice the time: not what the model was trained with.
    edit(
        repo.path / "features.py",
        'Aggregation("amount", "last", HOUR, name="last_amount")',
        'Aggregation("amount", "last", 2 * HOUR, name="last_amount")',
    )
    repo.apply()
    assert "card_spend:last_amount is defined otherwise" in repo.streamsvc(
        "models", "describe", name
    )
    (repo.path / "features.json").write_text(json.dumps(dict.fromkeys(FEATURES, "Float64")))
    assert "card_spend:count_amount_600s was Float64 and is Int64" in register("m.json", code=2)
