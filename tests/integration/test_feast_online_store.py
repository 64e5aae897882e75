"""The packed store under Feast, compared with Feast's own SQLite store wherever both can answer."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal as PlainDecimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast import types as ft
from feast.aggregation import Aggregation
from feast.data_format import JsonFormat
from feast.data_source import KafkaSource, PushSource
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.stream_feature_view import StreamFeatureView
from feast.type_map import python_values_to_proto_values
from feast.value_type import ValueType

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.scoring.fetch import StoreReads
from streamsvc.scoring.row_cache import RowCache
from streamsvc.store.client import connect
from streamsvc.store.keys import row_keys
from streamsvc.store.markers import Marker, read_markers, write_marker
from streamsvc.store.row import NEVER_MS, RowLayout
from streamsvc.store.sweep import delete_project
from streamsvc.store.writer import FencedWriter

ROOT = Path(__file__).parents[2]
NOW = datetime.now(UTC).replace(microsecond=0)
U1, U2 = uuid.UUID(int=1), uuid.UUID(int=2**100)

# Every type that Feast's protobufs can carry: name, type, and what two entities hold.
TYPES: list[tuple[str, Any, list[Any]]] = [
    ("f64", ft.Float64, [1.5, float("nan")]),
    ("f32", ft.Float32, [0.1, -3.4e38]),
    ("i64", ft.Int64, [2**63 - 1, -(2**63)]),
    ("i32", ft.Int32, [2**31 - 1, -(2**31)]),
    ("bool", ft.Bool, [True, False]),
    ("text", ft.String, ["", "naïve \N{SNOWMAN}"]),
    ("raw", ft.Bytes, [b"", b"\x00\xff\x80"]),
    ("pdf", ft.PdfBytes, [b"%PDF", b"\x00"]),
    ("image", ft.ImageBytes, [b"\x89PNG", b"\x00"]),
    ("moment", ft.UnixTimestamp, [NOW, datetime(1913, 1, 1, tzinfo=UTC)]),
    ("zoned", ft.ZonedTimestamp, [NOW, datetime(2013, 1, 1, tzinfo=UTC)]),
    ("uid", ft.Uuid, [U1, U2]),
    ("time_uid", ft.TimeUuid, [uuid.uuid1(), uuid.uuid1()]),
    ("dec", ft.Decimal, [PlainDecimal("1.10"), PlainDecimal("-1e40")]),
    ("map", ft.Map, [{"a": 1, "b": "x"}, {}]),
    ("scalar_map", ft.ScalarMap, [{1: "a", 2: "b"}, {}]),
    ("json", ft.Json, ['{"a": [1, 2]}', "null"]),
    ("struct", ft.Struct({"a": ft.Int64, "b": ft.String}), [{"a": 1, "b": "x"}, {"a": 2, "b": ""}]),
    ("raws", ft.Array(ft.Bytes), [[b"a", b""], []]),
    ("texts", ft.Array(ft.String), [["a", "b"], []]),
    ("i32s", ft.Array(ft.Int32), [[1, -2], []]),
    ("i64s", ft.Array(ft.Int64), [[2**60, 2], [0]]),
    ("f32s", ft.Array(ft.Float32), [[0.5, 1.5], []]),
    ("f64s", ft.Array(ft.Float64), [[0.1, 1e300], []]),
    ("bools", ft.Array(ft.Bool), [[True, False], []]),
    ("moments", ft.Array(ft.UnixTimestamp), [[NOW, NOW], []]),
    ("uids", ft.Array(ft.Uuid), [[U1, U2], []]),
    ("decs", ft.Array(ft.Decimal), [[PlainDecimal("0.1")], []]),
    ("maps", ft.Array(ft.Map), [[{"a": 1}], []]),
    ("jsons", ft.Array(ft.Json), [['{"a": 1}'], []]),
    ("structs", ft.Array(ft.Struct({"a": ft.Int64})), [[{"a": 1}], []]),
    ("nested", ft.Array(ft.Array(ft.Int64)), [[[1, 2], [3]], []]),
    ("raw_set", ft.Set(ft.Bytes), [{b"a"}, set()]),
    ("text_set", ft.Set(ft.String), [{"a"}, set()]),
    ("i32_set", ft.Set(ft.Int32), [{1}, set()]),
    ("i64_set", ft.Set(ft.Int64), [{2**40}, set()]),
    ("f32_set", ft.Set(ft.Float32), [{0.5}, set()]),
    ("f64_set", ft.Set(ft.Float64), [{0.1}, set()]),
    ("bool_set", ft.Set(ft.Bool), [{True}, set()]),
    ("moment_set", ft.Set(ft.UnixTimestamp), [{NOW}, set()]),
    ("uid_set", ft.Set(ft.Uuid), [{U1}, set()]),
    ("dec_set", ft.Set(ft.Decimal), [{PlainDecimal("2.5")}, set()]),
]

CARD = Entity(name="card", join_keys=["card_id"], value_type=ValueType.INT64)
SHOP = Entity(name="shop", join_keys=["a_shop"], value_type=ValueType.STRING)


@dataclass
class Repo:
    packed: FeatureStore
    sqlite: FeatureStore

    @property
    def both(self) -> list[FeatureStore]:
        return [self.packed, self.sqlite]

    @property
    def project(self) -> str:
        name: str = self.packed.config.project
        return name


def objects(directory: Path) -> list[Any]:
    def source(name: str) -> FileSource:
        return FileSource(
            name=name, path=str(directory / f"{name}.parquet"), timestamp_field="event_timestamp"
        )

    kinds = FeatureView(
        name="kinds",
        entities=[CARD, SHOP],
        schema=[
            Field(name="card_id", dtype=ft.Int64),
            Field(name="a_shop", dtype=ft.String),
            *(Field(name=n, dtype=t) for n, t, _ in TYPES),
        ],
        ttl=timedelta(0),
        source=source("kinds"),
    )
    # Declared out of order, and read in other orders still.
    limits = FeatureView(
        name="limits",
        entities=[CARD],
        schema=[Field(name=n, dtype=ft.Float64) for n in ("zeta", "alpha", "mid")],
        ttl=timedelta(0),
        source=PushSource(name="limits_push", batch_source=source("limits")),
    )
    fleeting = FeatureView(
        name="fleeting",
        entities=[CARD],
        schema=[Field(name="x", dtype=ft.Int64)],
        ttl=timedelta(hours=1),
        source=source("fleeting"),
    )
    everywhere = FeatureView(
        name="everywhere",
        entities=[],
        schema=[Field(name="rate", dtype=ft.Float64)],
        ttl=timedelta(0),
        source=source("everywhere"),
    )
    kafka = KafkaSource(
        name="payments",
        kafka_bootstrap_servers="unused:9092",
        topic="payments",
        message_format=JsonFormat(schema_json="card_id long, a_shop string, amount double"),
        timestamp_field="event_timestamp",
        batch_source=source("payments"),
    )
    spend = StreamFeatureView(
        name="spend",
        entities=[CARD, SHOP],
        schema=[
            Field(name="card_id", dtype=ft.Int64),
            Field(name="a_shop", dtype=ft.String),
            Field(name="sum_amount_600s", dtype=ft.Float64),
            Field(name="count_amount_600s", dtype=ft.Int64),
            Field(name="last_amount", dtype=ft.Float32),
        ],
        aggregations=[
            Aggregation(column="amount", function="sum", time_window=timedelta(minutes=10)),
            Aggregation(column="amount", function="count", time_window=timedelta(minutes=10)),
            Aggregation(
                column="amount",
                function="last",
                time_window=timedelta(minutes=10),
                name="last_amount",
            ),
        ],
        ttl=timedelta(hours=1),
        timestamp_field="event_timestamp",
        source=kafka,
    )
    service = FeatureService(
        name="decide", features=[spend[["sum_amount_600s"]], limits[["mid", "alpha"]]]
    )
    return [CARD, SHOP, kinds, limits, fleeting, everywhere, kafka, spend, service]


@pytest.fixture(scope="module")
def repo(stack: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repo]:
    directory = tmp_path_factory.mktemp("feast_repo")
    project = stack.unique("feast").replace("-", "_")
    url = stack.settings.redis_url.get_secret_value()
    online: list[dict[str, Any]] = [
        {"type": "streamsvc.feast.PackedRedisOnlineStore", "connection_string": url},
        {"type": "sqlite", "path": str(directory / "online.db")},
    ]
    stores = []
    for i, section in enumerate(online):
        config = RepoConfig(
            project=project,
            provider="local",
            registry=str(directory / f"registry{i}.db"),
            online_store=section,
            offline_store={"type": "duckdb"},
            entity_key_serialization_version=3,
            repo_path=directory,
        )
        store = FeatureStore(config=config)
        store.apply(objects(directory))
        stores.append(store)
    found = Repo(*stores)
    yield found
    found.packed.teardown()
    with connect(stack.settings) as client:
        assert list(client.scan_iter(match=f"{{{project}/*")) == []


def card_shop(card: int, shop: str) -> EntityKey:
    return EntityKey(
        join_keys=["a_shop", "card_id"],
        entity_values=[Value(string_val=shop), Value(int64_val=card)],
    )


def put(store: FeatureStore, view: str, rows: list[tuple[Any, dict[str, Any], datetime]]) -> int:
    """Write rows as materialization does; returns what was reported as progress."""
    done: list[int] = []
    store._get_provider().online_write_batch(
        store.config, _view(store, view), [(k, v, t, None) for k, v, t in rows], done.append
    )
    return sum(done)


def _view(store: FeatureStore, name: str) -> Any:
    if name == "spend":
        return store.get_stream_feature_view(name)
    return store.get_feature_view(name)


def test_every_type_reads_as_from_sqlite(repo: Repo) -> None:
    protos = {n: python_values_to_proto_values(v, t.to_value_type()) for n, t, v in TYPES}
    rows = [(card_shop(i, "s"), {n: p[i] for n, p in protos.items()}, NOW) for i in range(2)]
    rows.append((card_shop(2, "s"), {n: Value() for n, _, _ in TYPES}, NOW))
    refs = [f"kinds:{n}" for n, _, _ in TYPES]
    wanted = [{"card_id": i, "a_shop": "s"} for i in (1, 0, 2, 3, 1)]
    answers = []
    for store in repo.both:
        assert put(store, "kinds", rows) == 3
        answers.append(store.get_online_features(features=refs, entity_rows=wanted).proto)
    packed, sqlite = answers
    assert packed.metadata == sqlite.metadata
    for name, ours, theirs in zip(
        packed.metadata.feature_names.val, packed.results, sqlite.results, strict=True
    ):
        assert [v.SerializeToString() for v in ours.values] == [
            v.SerializeToString() for v in theirs.values
        ], name
        assert list(ours.statuses) == list(theirs.statuses), name
        assert list(ours.event_timestamps) == list(theirs.event_timestamps), name


def test_projections_orders_and_full_names_read_as_from_sqlite(repo: Repo) -> None:
    rows = pd.DataFrame(
        {
            "card_id": [1, 2, 3],
            "zeta": [0.1, 0.2, None],
            "alpha": [1.0, 2.0, 3.0],
            "mid": [5.0, None, 7.0],
            "event_timestamp": [NOW] * 3,
        }
    )
    entities = [{"card_id": i} for i in (3, 1, 404, 2, 3)]
    for refs in (["limits:zeta", "limits:alpha"], ["limits:mid"], ["limits:alpha", "limits:zeta"]):
        answers = []
        for store in repo.both:
            store.write_to_online_store("limits", rows)
            answers.append(
                store.get_online_features(
                    features=refs, entity_rows=entities, full_feature_names=True
                ).to_dict(include_event_timestamps=True)
            )
        assert repr(answers[0]) == repr(answers[1])
    values = repo.packed.get_online_features(
        features=["limits:zeta", "limits:alpha"], entity_rows=entities
    ).to_dict()
    assert values["alpha"] == [3.0, 1.0, None, 2.0, 3.0]


def test_push_reads_as_from_sqlite(repo: Repo) -> None:
    pushed = pd.DataFrame(
        {"card_id": [50], "zeta": [1.0], "alpha": [2.0], "mid": [3.0], "event_timestamp": [NOW]}
    )
    answers = []
    for store in repo.both:
        store.push("limits_push", pushed)
        rows = store.get_online_features(features=["limits:mid"], entity_rows=[{"card_id": 50}])
        answers.append(rows.to_dict())
    assert answers[0] == answers[1] == {"card_id": [50], "mid": [3.0]}


def test_a_view_without_entities_has_one_row(repo: Repo) -> None:
    """SQLite cannot answer this: Feast writes such a row under another key than it reads."""
    rate = pd.DataFrame({"rate": [0.25], "event_timestamp": [NOW]})
    repo.packed.write_to_online_store("everywhere", rate)
    rows = repo.packed.get_online_features(
        features=["everywhere:rate"], entity_rows=[{"card_id": 1}, {"card_id": 2}]
    )
    assert rows.to_dict()["rate"] == [0.25, 0.25]


def x_of(store: FeatureStore, card: int) -> Any:
    answer = store.get_online_features(features=["fleeting:x"], entity_rows=[{"card_id": card}])
    return answer.to_dict()["x"][0]


def card(i: int) -> EntityKey:
    return EntityKey(join_keys=["card_id"], entity_values=[Value(int64_val=i)])


def test_whoever_keeps_rows_of_a_batch_view_learns_of_every_write(repo: Repo, stack: Any) -> None:
    layout, keys = RowLayout({"x": "Int64"}), encode_entity_keys([numeric([70, 71])])
    cache = RowCache(1, 3_600, time.monotonic)
    with connect(stack.settings) as client:
        reads = StoreReads(client, repo.project, {"fleeting": cache})

        def read() -> tuple[list[Any], int | None]:
            _, [rows] = reads.read([], [("fleeting", layout, keys)])
            return rows.values["x"].to_pylist(), rows.kept

        assert [read(), read()] == [([None, None], 0), ([None, None], 2)]
        for value in (5, 6):
            put(repo.packed, "fleeting", [(card(70), {"x": Value(int64_val=value)}, NOW)])
            assert [read(), read()] == [([value, None], 0), ([value, None], 2)]
        frame = pd.DataFrame({"card_id": [71], "x": [9], "event_timestamp": [NOW]})
        repo.packed.write_to_online_store("fleeting", frame)
        assert [read(), read()] == [([6, 9], 0), ([6, 9], 2)]
        view = repo.packed.get_feature_view("fleeting")
        provider = repo.packed._get_provider()
        provider.online_store.update(repo.packed.config, [view], [], [], [], partial=False)
        assert read() == ([None, None], 0)


def test_the_newest_event_time_wins_and_a_repeat_replaces(repo: Repo) -> None:
    def write(value: int, seconds: float) -> Any:
        at = NOW - timedelta(minutes=10) + timedelta(seconds=seconds)
        put(repo.packed, "fleeting", [(card(1), {"x": Value(int64_val=value)}, at)])
        return x_of(repo.packed, 1)

    assert write(1, 10) == 1
    assert write(2, 5) == 1  # older
    assert write(3, 10) == 3  # the same event time: corrected
    assert write(4, 10.001) == 4
    assert write(5, 10) == 4


def test_of_several_rows_in_one_write_the_newest_stays(repo: Repo) -> None:
    def row(value: int, microseconds: int) -> tuple[Any, dict[str, Value], datetime]:
        return (card(2), {"x": Value(int64_val=value)}, NOW + timedelta(microseconds=microseconds))

    # All but one lie in one millisecond, which is what a row's position can tell apart.
    assert put(repo.packed, "fleeting", [row(1, 10), row(2, 30), row(3, 20), row(4, 30)]) == 4
    assert x_of(repo.packed, 2) == 4
    put(repo.packed, "fleeting", [])


def test_times_without_a_zone_are_utc(repo: Repo) -> None:
    answers = []
    for store in repo.both:
        naive = (NOW - timedelta(minutes=1)).replace(tzinfo=None)
        put(store, "fleeting", [(card(3), {"x": Value(int64_val=3)}, naive)])
        answers.append(
            store.get_online_features(
                features=["fleeting:x"], entity_rows=[{"card_id": 3}]
            ).to_dict(include_event_timestamps=True)
        )
    assert answers[0] == answers[1]


def test_rows_older_than_the_ttl_are_missing(repo: Repo) -> None:
    now = datetime.now(UTC)  # the run may have begun long ago
    put(
        repo.packed,
        "fleeting",
        [
            (card(10), {"x": Value(int64_val=1)}, now - timedelta(minutes=50)),
            (card(11), {"x": Value(int64_val=2)}, now - timedelta(minutes=70)),
        ],
    )
    assert (x_of(repo.packed, 10), x_of(repo.packed, 11)) == (1, None)
    lenient = repo.packed.config.model_copy(deep=True)
    lenient.online_store.enforce_ttl = False
    assert x_of(FeatureStore(config=lenient), 11) == 2
    # A ttl of zero is none at all, in Feast as here.
    put(repo.packed, "limits", [(card(11), {"mid": Value(double_val=1)}, datetime(2013, 1, 1))])
    old = repo.packed.get_online_features(["limits:mid"], [{"card_id": 11}])
    assert old.to_dict()["mid"] == [1.0]


def test_streamed_rows_read_through_feast_with_their_types(stack: Any, repo: Repo) -> None:
    """What a feature worker packs, `get_online_features` returns, in event time of long ago."""
    layout = RowLayout(
        {"sum_amount_600s": "Float64", "count_amount_600s": "Int64", "last_amount": "Float32"}
    )
    as_of = int(datetime(2013, 10, 1, tzinfo=UTC).timestamp() * 1_000)
    keys = encode_entity_keys([strings(["é", "b"]), numeric([7, 8])])  # a_shop, card_id
    rows = layout.pack(
        {
            "sum_amount_600s": numeric([12.5, None]),
            "count_amount_600s": numeric([3, 0]),
            "last_amount": numeric([0.1, None]),
        },
        incarnation=4,
        offset=2**53 + 1,
        as_of=np.array([as_of, as_of]),
        valid_until=np.array([as_of + 1, NEVER_MS]),  # the first is due to age: still the latest
    )
    with connect(stack.settings) as client:
        assert FencedWriter(client, repo.project).write("spend", keys, rows) == 0
    refs = ["spend:last_amount", "spend:sum_amount_600s", "spend:count_amount_600s"]
    wanted = [{"card_id": c, "a_shop": s} for c, s in ((8, "b"), (7, "é"), (7, "b"))]
    answer = repo.packed.get_online_features(refs, wanted)
    values = answer.to_dict(include_event_timestamps=True)
    assert values["sum_amount_600s"] == [None, 12.5, None]
    assert values["count_amount_600s"] == [0, 3, None]
    assert values["last_amount"] == [None, pytest.approx(0.1, rel=1e-7), None]
    assert values["sum_amount_600s__ts"] == [as_of // 1_000, as_of // 1_000, 0]
    fields = {v.WhichOneof("val") for r in answer.proto.results for v in r.values}
    assert fields == {"int64_val", "string_val", "double_val", "float_val", None}

    through_service = repo.packed.get_online_features(
        repo.packed.get_feature_service("decide"), [{"card_id": 7, "a_shop": "é"}]
    ).to_dict()
    assert through_service["sum_amount_600s"] == [12.5]

    # What Feast writes has no log behind it, so it never replaces a streamed row.
    put(
        repo.packed, "spend", [(card_shop(7, "é"), {"count_amount_600s": Value(int64_val=99)}, NOW)]
    )
    again = repo.packed.get_online_features(refs, [wanted[1]]).to_dict()
    assert again["count_amount_600s"] == [3]


def test_async_calls_give_the_same_answers(repo: Repo) -> None:
    store = repo.packed
    rows = pd.DataFrame(
        {"card_id": [77], "zeta": [1.0], "alpha": [2.0], "mid": [3.0], "event_timestamp": [NOW]}
    )
    arguments: dict[str, Any] = {"features": ["limits:zeta"], "entity_rows": [{"card_id": 77}]}

    async def both() -> Any:
        await store.write_to_online_store_async("limits", rows)
        return await store.get_online_features_async(**arguments)

    answer = asyncio.run(both()).to_dict()
    assert answer == store.get_online_features(**arguments).to_dict()
    assert answer["zeta"] == [1.0]


def test_a_value_of_another_type_is_refused_by_name(repo: Repo) -> None:
    bad = [(card(1), {"x": Value(string_val="1")}, NOW)]
    with pytest.raises(TypeError, match="feature 'x' is Int64, but was given a string_val"):
        put(repo.packed, "fleeting", bad)
    listed = EntityKey(join_keys=["card_id"], entity_values=[Value(map_val={})])
    with pytest.raises(TypeError, match="join key 'card_id': a map_val cannot name an entity"):
        put(repo.packed, "fleeting", [(listed, {"x": Value(int64_val=1)}, NOW)])


@pytest.mark.parametrize(
    ("value", "same_as"),
    [
        (Value(int32_val=5), Value(int64_val=5)),
        (Value(bool_val=True), Value(int64_val=1)),
        (Value(unix_timestamp_val=9), Value(int64_val=9)),
        (Value(bytes_val=b"ab"), Value(string_val="ab")),
        (Value(float_val=0.5), Value(double_val=0.5)),
    ],
)
def test_entities_of_like_types_are_one_entity(repo: Repo, value: Value, same_as: Value) -> None:
    stored = EntityKey(join_keys=["card_id"], entity_values=[value])
    asked = EntityKey(join_keys=["card_id"], entity_values=[same_as])
    put(repo.packed, "fleeting", [(stored, {"x": Value(int64_val=1)}, NOW)])
    store = repo.packed._get_provider().online_store
    rows = store.online_read(repo.packed.config, _view(repo.packed, "fleeting"), [asked], ["x"])
    assert rows == [(NOW, {"x": Value(int64_val=1)})]


def test_a_removed_view_takes_its_rows_and_markers_and_nothing_else(
    stack: Any, repo: Repo, tmp_path: Path
) -> None:
    extra = FeatureView(
        name="limits2",
        entities=[CARD],
        schema=[Field(name="mid", dtype=ft.Float64)],
        source=FileSource(path=str(tmp_path / "x.parquet"), timestamp_field="event_timestamp"),
    )
    repo.packed.apply([extra])
    n = 2_500
    put(
        repo.packed,
        "limits2",
        [(card(i), {"mid": Value(double_val=i)}, NOW) for i in range(n)],
    )
    put(repo.packed, "limits", [(card(5), {"mid": Value(double_val=5)}, NOW)])
    with connect(stack.settings) as client:
        for view in ("limits", "limits2"):
            write_marker(client, repo.project, view, 0, Marker(1, {}, 0, 0))
        names = row_keys(repo.project, "limits2", encode_entity_keys([numeric(list(range(n)))]))
        assert client.exists(*names) == n
        repo.packed.apply([], objects_to_delete=[extra], partial=False)
        assert client.exists(*names) == 0
        assert read_markers(client, repo.project, "limits2", [0]) == [None]
        assert read_markers(client, repo.project, "limits", [0]) != [None]
    kept = repo.packed.get_online_features(["limits:mid"], [{"card_id": 5}]).to_dict()
    assert kept["mid"] == [5.0]


DEFINITIONS = """
from datetime import timedelta
from feast import Entity, FeatureView, Field, FileSource
from feast.types import Float64, Int64, String

card = Entity(name="card", join_keys=["card_id"])
limits = FeatureView(
    name="limits",
    entities=[card],
    schema=[
        Field(name="card_id", dtype=Int64),
        Field(name="ceiling", dtype=Float64),
        Field(name="tier", dtype=String),
    ],
    ttl=timedelta(days=1),
    source=FileSource(path="limits.parquet", timestamp_field="event_timestamp"),
)
"""


def test_feast_commands_and_its_feature_server(stack: Any, tmp_path: Path) -> None:
    """Apply, materialize, get-online-features and serve, as a user runs them."""
    project = stack.unique("feastcli").replace("-", "_")
    (tmp_path / "feature_store.yaml").write_text(
        textwrap.dedent(f"""
        project: {project}
        provider: local
        registry: registry.db
        entity_key_serialization_version: 3
        offline_store: {{type: duckdb}}
        online_store: {{type: streamsvc.feast.PackedRedisOnlineStore, key_ttl_seconds: 3600}}
        """)
    )
    (tmp_path / "definitions.py").write_text(DEFINITIONS)
    pd.DataFrame(
        {
            "card_id": [1, 1, 2],
            "ceiling": [10.0, 20.0, None],
            "tier": ["old", "gold", "tin"],
            "event_timestamp": [NOW - timedelta(hours=h) for h in (3, 2, 1)],
        }
    ).to_parquet(tmp_path / "limits.parquet", coerce_timestamps="us")  # DuckDB cannot compare ns
    environment = {
        **os.environ,
        "STREAMSVC_REDIS_URL": stack.settings.redis_url.get_secret_value(),
        "PYTHONPATH": str(ROOT),
        "FEAST_USAGE": "False",
    }
    command = [str(Path(sys.executable).parent / "feast")]

    def feast(*arguments: str) -> str:
        done = subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    feast("apply")
    feast(
        "materialize",
        (NOW - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%S"),
        (NOW + timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%S"),
    )
    shown = feast(
        "get-online-features", "-e", "card_id=1", "-e", "card_id=2", "-e", "card_id=3",
        "-f", "limits:tier", "-f", "limits:ceiling",
    )  # fmt: skip
    got = json.loads(shown[shown.index("{") :])
    assert got["tier"] == ["gold", "tin", None]
    assert got["ceiling"] == [20.0, None, None]

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with (tmp_path / "serve.log").open("wb") as log:
        server = subprocess.Popen(
            [*command, "serve", "-h", "127.0.0.1", "-p", str(port), "--no-access-log"],
            cwd=tmp_path,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        answer = _post_until_up(
            f"http://127.0.0.1:{port}/get-online-features",
            {"features": ["limits:ceiling", "limits:tier"], "entities": {"card_id": [2, 1, 9]}},
            server,
        )
    finally:
        server.terminate()
        server.wait(timeout=30)
    by_name = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    assert by_name["ceiling"]["values"] == [None, 20.0, None]
    assert by_name["tier"]["values"] == ["tin", "gold", None]
    assert by_name["tier"]["statuses"] == ["PRESENT", "PRESENT", "NOT_FOUND"]

    with connect(stack.settings) as client:
        assert delete_project(client, project) == 3, "two rows, and that they were written"


def _post_until_up(url: str, body: dict[str, Any], server: subprocess.Popen[bytes]) -> Any:
    """The answer to one request, sent until the server listens; gives up if it exits."""
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    give_up = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from error
        except urllib.error.URLError:
            assert server.poll() is None, "the feature server exited"
            assert time.monotonic() < give_up, "the feature server never listened"
            time.sleep(0.2)
