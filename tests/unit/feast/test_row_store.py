"""What a worker's rows in a store of Feast come to where that store does less, or fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.errors import ConfigurationError, UnavailableError
from streamsvc.feast.row_store import FeastRowStore, open_row_store, refuse_other_store
from streamsvc.store.markers import Marker
from streamsvc.store.row import NEVER_MS, RowLayout

LAYOUTS = [RowLayout({"n": "Int64", "paid": "Float32"}), RowLayout({"n": "Int64"})]


class Online:
    """Takes rows until it is told not to."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.fails = False

    def online_write_batch(self, config: Any, table: Any, data: list[Any], progress: Any) -> None:
        if self.fails:
            raise OSError("the disk is full")
        self.taken += [(table.name, *row) for row in data]


@pytest.fixture
def online() -> Online:
    return Online()


@pytest.fixture
def rows(online: Online) -> FeastRowStore:
    from feast import Field
    from feast.types import String

    table = SimpleNamespace(name="spend", entity_columns=[Field(name="card", dtype=String)])
    registry = SimpleNamespace(get_stream_feature_view=lambda name, project: table)
    settings = SimpleNamespace(type="redis", skip_dedup=False)
    config = SimpleNamespace(online_store=settings)
    store = FeastRowStore(SimpleNamespace(config=config, registry=registry, project="shop"), online)
    assert settings.skip_dedup, "an equal time must not keep a row out"
    for layout in LAYOUTS:
        store.introduce("spend", layout)
    return store


def batch(layout: RowLayout, cards: list[str], **values: list[Any]) -> Any:
    n = len(cards)
    columns = {name: numeric(column) for name, column in values.items()}
    packed = layout.pack(columns, 3, 9, np.arange(n) * 1_500, np.full(n, NEVER_MS))
    return "spend", encode_entity_keys([strings(cards)]), packed


def test_rows_of_two_schemas_are_what_our_own_store_would_read(
    rows: FeastRowStore, online: Online
) -> None:
    both = batch(LAYOUTS[0], ["a", "b"], n=[1, None], paid=[0.1, 2.5])
    written = rows.write([both, batch(LAYOUTS[1], ["c"], n=[7])], {}, {})
    assert [refusal.rows for refusal in written.refused] == [0, 0]
    assert written.intact
    found = [
        (key.entity_values[0].string_val, {n: str(v).strip() for n, v in values.items()}, at)
        for _, key, values, at, _ in online.taken
    ]
    assert [(card, values) for card, values, _ in found] == [
        ("a", {"n": "int64_val: 1", "paid": "float_val: 0.1"}),
        ("b", {"n": "", "paid": "float_val: 2.5"}),
        ("c", {"n": "int64_val: 7"}),
    ]
    assert [at.timestamp() for *_, at in found] == [0.0, 1.5, 0.0]


def test_a_store_that_fails_is_named_and_may_be_tried_again(
    rows: FeastRowStore, online: Online
) -> None:
    online.fails = True
    with pytest.raises(UnavailableError, match=r"'redis'.* no rows of spend: OSError: the disk"):
        rows.write([batch(LAYOUTS[1], ["a"], n=[1])], {}, {})


def test_what_it_promised_only_the_worker_itself_knows(rows: FeastRowStore) -> None:
    marker = Marker(1, {"t": {0: 5}}, 0, 0)
    rows.promise({("spend", 0): marker, ("spend", 1): marker, ("other", 0): marker})
    assert rows.promised("spend", [0, 1, 2]) == [marker, marker, None]
    rows.take_back([("spend", 0)])
    assert rows.promised("spend", [0, 1]) == [None, marker]
    assert rows.delete_older("spend", 2) == 0
    assert rows.promised("spend", [1]) == [None]
    assert rows.promised("other", [0]) == [marker]


def repo(path: Path, store: str) -> Path:
    (path / "feature_store.yaml").write_text(
        "project: shop\nprovider: local\nregistry: data/registry.db\n"
        f"online_store:\n  type: {store}\nentity_key_serialization_version: 3\n"
    )
    return path


def test_ours_is_none_of_feasts(tmp_path: Path) -> None:
    ours = repo(tmp_path, "streamsvc.feast.PackedRedisOnlineStore")
    assert open_row_store(ours) is None
    refuse_other_store(ours, "nobody reads it")
    other = repo(tmp_path, "sqlite")
    found = open_row_store(other)
    assert found is not None
    assert found.name == "sqlite"
    with pytest.raises(ConfigurationError, match=r"'sqlite', and nobody reads it\. Set"):
        refuse_other_store(other, "nobody reads it")
