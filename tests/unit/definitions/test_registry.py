"""Feast objects -> Plan, without applying: what `feast apply` adds is set by hand."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from streamsvc import ScoringRoute
from streamsvc.definitions.plan import (
    LIFETIME_MS,
    Aggregate,
    AvroEncoding,
    FeatureRef,
    JoinKey,
    Plan,
    ProtobufEncoding,
    Updates,
)
from streamsvc.definitions.registry import FeastObjects, compile_plan, load_plan
from streamsvc.definitions.start import starts_ahead
from streamsvc.errors import ConfigurationError, DefinitionError
from streamsvc.feast_import import import_feast

import_feast()
from feast import (  # noqa: E402
    Aggregation,
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    PushSource,
    RequestSource,
    StreamFeatureView,
)
from feast.data_format import AvroFormat, JsonFormat, ProtoFormat  # noqa: E402
from feast.on_demand_feature_view import on_demand_feature_view  # noqa: E402
from feast.types import Bool, Float32, Float64, Int64, String  # noqa: E402
from feast.value_type import ValueType  # noqa: E402

REPO = Path("/repo")
DDL = "card STRING, shop BIGINT, amount DOUBLE, items BIGINT, refund BOOLEAN, at STRING"
MINUTE = timedelta(minutes=1)
CARD = Entity(name="card", join_keys=["card"], value_type=ValueType.STRING)


class ParquetLike(JsonFormat):
    """A format that Feast may have one day."""

    def __init__(self) -> None:
        super().__init__("")


def avro(**types: Any) -> str:
    listed = [{"name": name, "type": kind} for name, kind in types.items()]
    return json.dumps({"type": "record", "name": "Payment", "fields": listed})


def fields(**types: Any) -> list[Field]:
    return [Field(name=name, dtype=dtype) for name, dtype in types.items()]


def source(**changes: Any) -> KafkaSource:
    given: dict[str, Any] = {
        "name": "payments",
        "topic": "payments",
        "message_format": JsonFormat(schema_json=DDL),
        "timestamp_field": "at",
        "batch_source": FileSource(name="files", path="data/p.parquet", timestamp_field="at"),
    }
    return KafkaSource(**{**given, **changes})


def view(**changes: Any) -> StreamFeatureView:
    given: dict[str, Any] = {
        "name": "spend",
        "entities": [CARD],
        "source": source(),
        "timestamp_field": "at",
        "aggregations": [Aggregation("amount", "sum", 10 * MINUTE)],
        "schema": fields(card=String, sum_amount_600s=Float64),
    }
    made = StreamFeatureView(**{**given, **changes})
    # As Feast returns it from a registry: join keys stand among the features.
    made.features = [*made.entity_columns, *made.features]
    return made


def compile_(*views: Any, sources: Any = None, services: Any = (), **kinds: Any) -> Plan:
    objects = FeastObjects(
        project="p",
        kafka_sources=[source()] if sources is None else sources,
        stream_views=views,
        services=services,
        **kinds,
    )
    return compile_plan(objects, REPO, max_future_ms=5)


def mistakes(*args: Any, **kwargs: Any) -> tuple[str, ...]:
    with pytest.raises(DefinitionError) as caught:
        compile_(*args, **kwargs)
    return caught.value.mistakes


def test_a_view_is_compiled() -> None:
    plan = compile_(view(), sources=[source(watermark_delay_threshold=2 * MINUTE)])
    made = plan.view("spend")
    assert made.join_keys == (JoinKey("card", "string"),)
    assert made.aggregates == (Aggregate("sum_amount_600s", "amount", "sum", 600_000, 10_000),)
    assert made.feature_types == {"sum_amount_600s": "Float64"}
    assert made.column_types == {"amount": "float64"}
    assert made.ttl_ms is None
    assert made.shuffled
    assert made.source.allowed_lateness_ms == 120_000
    assert made.source.max_future_ms == 5
    assert made.source.archive_path == "/repo/data/p.parquet"
    assert made.source.archive_timestamp_field == "at"


def test_without_a_declared_lateness_none_is_allowed() -> None:
    assert compile_(view()).sources[0].allowed_lateness_ms == 0


def test_a_declared_key_spares_the_shuffle() -> None:
    keyed = source(tags={"streamsvc.key": "card"})
    assert not compile_(view(source=keyed), sources=[keyed]).view("spend").shuffled


def test_updates_have_a_topic_of_their_own() -> None:
    plain, tagged = view(), view(tags={"streamsvc.updates": "spend.updates"})
    found = compile_(tagged).view("spend")
    assert found.updates == Updates("spend.updates")
    assert compile_(plain).view("spend").updates is None
    per_event = {"streamsvc.updates": "spend.updates", "streamsvc.updates_per": "event"}
    assert compile_(view(tags=per_event)).view("spend").updates == Updates("spend.updates", True)
    # Whoever follows a view does not make it another one.
    assert found.definition_hash == compile_(plain).view("spend").definition_hash
    other = view(name="other", tags={"streamsvc.updates": "spend.updates"})
    [mistake] = mistakes(tagged, other)
    assert mistake.startswith("StreamFeatureView 'spend': tag 'streamsvc.updates' is ")
    assert "that of StreamFeatureView 'other'; give it another one." in mistake


def test_features_come_in_sorted_order_however_feast_lists_them() -> None:
    schema = [Field(name=n, dtype=Float64) for n in ("c", "a", "b")]
    aggregations = [Aggregation("amount", "sum", MINUTE, name=n) for n in ("b", "c", "a")]
    one = view(schema=[Field(name="card", dtype=String), *schema], aggregations=aggregations)
    other = view(
        schema=[*reversed(schema), Field(name="card", dtype=String)],
        aggregations=aggregations[::-1],
    )
    service = FeatureService(name="s", features=[one])
    plan, again = compile_(one, services=[service]), compile_(other, services=[service])
    assert plan.view("spend").features == ("a", "b", "c")
    assert plan.views == again.views
    assert plan.service("s").features == tuple(FeatureRef("spend", n) for n in "abc")


def test_numbers_that_a_udf_makes_are_floats() -> None:
    made = view(
        udf=lambda df: df.assign(double=df["items"].fillna(0).astype("int64") * 2),
        mode="pandas",
        aggregations=[
            Aggregation("double", "sum", MINUTE, name="a"),
            Aggregation("items", "sum", MINUTE, name="b"),
        ],
        schema=fields(card=String, a=Float64, b=Int64),
    )
    assert compile_(made).view("spend").column_types == {"double": "float64", "items": "int64"}


def test_without_a_window_an_aggregate_is_over_all_time() -> None:
    made = view(
        aggregations=[
            Aggregation("shop", "count_distinct"),
            Aggregation("amount", "p95"),
            Aggregation("amount", "p50", MINUTE),
        ],
        schema=fields(
            card=String, count_distinct_shop=Int64, p95_amount=Float64, p50_amount_60s=Float64
        ),
    )
    assert compile_(made).view("spend").aggregates == (
        Aggregate("count_distinct_shop", "shop", "count_distinct", LIFETIME_MS, LIFETIME_MS),
        Aggregate("p50_amount_60s", "amount", "p50", 60_000, 1_000),
        Aggregate("p95_amount", "amount", "p95", LIFETIME_MS, LIFETIME_MS),
    )


def test_without_aggregations_a_view_is_the_latest_row() -> None:
    made = view(
        aggregations=[],
        schema=fields(card=String, amount=Float32, items=Int64, refund=Bool),
    )
    assert compile_(made).view("spend").aggregates == tuple(
        Aggregate(name, name, "latest", LIFETIME_MS, LIFETIME_MS)
        for name in ("amount", "items", "refund")
    )
    made.ttl = timedelta(hours=1)
    assert compile_(made).view("spend").aggregates[0] == Aggregate(
        "amount", "amount", "latest", 3_600_000, 60_000
    )


def test_text_may_come_out_of_a_udf() -> None:
    made = view(
        udf=lambda df: df.assign(tag=df["card"] + "!"),
        mode="pandas",
        aggregations=[Aggregation("tag", "last", MINUTE, name="tag")],
        schema=fields(card=String, tag=String),
    )
    assert compile_(made).view("spend").column_types == {"tag": "string"}


def test_the_hash_follows_what_decides_a_value() -> None:
    reference = compile_(view()).view("spend").definition_hash
    moved = source(
        batch_source=FileSource(name="elsewhere", path="s3://bucket/x", timestamp_field="at"),
        description="the same events",
    )
    assert compile_(view(), sources=[moved]).view("spend").definition_hash == reference
    assert compile_(view(ttl=timedelta(days=9))).view("spend").definition_hash == reference
    for changed in (
        view(aggregations=[Aggregation("items", "sum", 10 * MINUTE, name="sum_amount_600s")]),
        view(tiling_hop_size=MINUTE),
    ):
        assert compile_(changed).view("spend").definition_hash != reference
    late = source(watermark_delay_threshold=MINUTE)
    assert compile_(view(), sources=[late]).view("spend").definition_hash != reference


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"aggregations": [Aggregation("amount", "avg", MINUTE, name="sum_amount_600s")]},
            "unknown aggregation function 'avg'; did you mean 'mean'?",
        ),
        (
            {"aggregations": [Aggregation("amount", "p100", MINUTE, name="sum_amount_600s")]},
            "unknown aggregation function 'p100'; there are count, count_distinct, first,",
        ),
        (
            {"aggregations": [Aggregation("amount", "median", MINUTE, name="sum_amount_600s")]},
            "unknown aggregation function 'median'; did you mean 'p50'?",
        ),
        (
            {"aggregations": [Aggregation("amount", "latest", MINUTE, name="sum_amount_600s")]},
            "unknown aggregation function 'latest'; did you mean 'last'?",
        ),
        (
            {"aggregations": [Aggregation("amuont", "sum", MINUTE, name="sum_amount_600s")]},
            "there is no column 'amuont'; did you mean 'amount'?",
        ),
        (
            {"aggregations": [Aggregation("amount", "sum", timedelta(minutes=20))]},
            "rename Field 'sum_amount_600s'",
        ),
        (
            {
                "aggregations": [
                    Aggregation("amount", "sum", slide_interval=MINUTE, name="sum_amount_600s")
                ]
            },
            "has a slide_interval and no time_window; set both or none",
        ),
        (
            {
                "aggregations": [Aggregation("amount", "sum", name="sum_amount_600s")],
                "ttl": timedelta(days=900),
            },
            "shorter than its window that never ends, so values would vanish while they still",
        ),
        (
            {"aggregations": [Aggregation("card", "sum", 10 * MINUTE, name="sum_amount_600s")]},
            "sum of a string column; functions of a string are count, count_distinct, first, last",
        ),
        (
            {"aggregations": [Aggregation("card", "max", 10 * MINUTE, name="sum_amount_600s")]},
            "max of string does not fit in Float64; declare it String",
        ),
        (
            {"aggregations": [Aggregation("refund", "p50", 10 * MINUTE, name="sum_amount_600s")]},
            "p50 of a bool column; functions of a bool are count, count_distinct, first, last, ",
        ),
        (
            {
                "aggregations": [Aggregation("items", "p50", MINUTE, name="sum_amount_600s")],
                "schema": fields(card=String, sum_amount_600s=Int64),
            },
            "p50 of int64 does not fit in Int64; declare it Float64",
        ),
        (
            {
                "aggregations": [Aggregation("at", "max", MINUTE, name="sum_amount_600s")],
                "schema": fields(card=String, sum_amount_600s=String),
            },
            "max of the event time's text, which history does not know",
        ),
        (
            {"aggregations": [Aggregation("amount", "sum", 10 * MINUTE, timedelta(seconds=7))]},
            "not a multiple of its slide_interval",
        ),
        (
            {"schema": fields(card=String, sum_amount_600s=Int64)},
            "sum of float64 does not fit in Int64; declare it Float64",
        ),
        (
            {"aggregations": []},
            "a feature is a column, and there is none of that name; there are amount, at, card",
        ),
        ({"aggregations": [], "schema": fields(card=String)}, "no column of it in its schema"),
        (
            {"aggregations": [], "schema": fields(card=String, at=String)},
            "feature 'at': is the event time, which no feature holds; leave it out",
        ),
        (
            {"aggregations": [], "schema": fields(card=String, items=String)},
            "feature 'items': an int64 column does not fit in String; declare it Int64",
        ),
        (
            {
                "aggregations": [],
                "schema": fields(card=String, items=Int64),
                "ttl": timedelta(hours=1),
                "tiling_hop_size": timedelta(seconds=7),
            },
            "its ttl: its window of 3600 s is not a multiple of its tiling_hop_size of 7 s",
        ),
        ({"ttl": MINUTE}, "its ttl of 60 s is shorter than its window of 600 s"),
        ({"timestamp_field": "paid"}, "timestamp_field is 'paid', its source says 'at'"),
        ({"tags": {"streamsvc.key": "card"}}, "unknown tag 'streamsvc.key'"),
        ({"tags": {"streamsvc.updates": "a topic"}}, "which cannot be a topic's name"),
        ({"tags": {"streamsvc.updates_per": "event"}}, "but no topic; add tag 'streamsvc.updates'"),
        (
            {"tags": {"streamsvc.updates": "u", "streamsvc.updates_per": "events"}},
            "tag 'streamsvc.updates_per' is 'events'; did you mean 'event'?",
        ),
        ({"tags": {"streamsvc.updates": ".."}}, "which cannot be a topic's name"),
        ({"tags": {"streamsvc.updates": "payments"}}, "the topic of KafkaSource 'payments'; give"),
        (
            {"tags": {"streamsvc.updates": "payments.dead"}},
            "that of the dead letters of KafkaSource",
        ),
        (
            {
                "entities": [Entity(name="c", join_keys=["crad"], value_type=ValueType.STRING)],
                "schema": fields(crad=String, sum_amount_600s=Float64),
            },
            "'crad' is not in the schema of KafkaSource 'payments'; did you mean 'card'?",
        ),
        (
            {
                "entities": [Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)],
                "schema": fields(shop=String, sum_amount_600s=Float64),
            },
            "entity column 'shop' is string, but int64 in the events",
        ),
        (
            {
                "entities": [Entity(name="c", join_keys=["card"], value_type=ValueType.BOOL)],
                "schema": fields(card=Bool, sum_amount_600s=Float64),
            },
            "entity column 'card' is Bool",
        ),
        ({"entities": []}, "has no entities"),
        (
            {
                "source": PushSource(
                    name="push", batch_source=FileSource(name="f", path="x", timestamp_field="at")
                )
            },
            "its source is PushSource; streamed features need a KafkaSource",
        ),
        ({"udf": lambda df: df, "mode": "python"}, "its udf has mode 'python'"),
        (
            {"udf": lambda df: df.assign(items=df["items"] / 2), "mode": "pandas"},
            "its udf turns column 'items' from int64 into float64",
        ),
        (
            {"udf": lambda df: df[["amount"]], "mode": "pandas"},
            "its udf drops entity column 'card'; return it too",
        ),
        (
            {
                "udf": lambda df: df.assign(tag=[[1]] * len(df)),
                "mode": "pandas",
                "aggregations": [Aggregation("tag", "count", MINUTE, name="sum_amount_600s")],
            },
            "there is no column 'tag'",
        ),
        (
            {"udf": lambda df: df.assign(amount=df["amount"].cumsum()), "mode": "pandas"},
            "depends on other rows",
        ),
    ],
)
def test_each_mistake_of_a_view_is_told_with_its_fix(changes: dict[str, Any], told: str) -> None:
    made = view(**changes)
    if not made.entity_columns:  # what `feast apply` makes of a view without entities
        made.entity_columns = [Field(name="__dummy_id", dtype=String)]
    found = mistakes(made)
    assert any(told in m for m in found), found
    assert all("'spend'" in m for m in found)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"timestamp_field": "paid"}, "'paid'"),
        ({"topic": ""}, "has no topic"),
        ({"message_format": AvroFormat(schema_json="{}")}, "The Avro schema has no type"),
        ({"message_format": AvroFormat(schema_json='"int"')}, "is an int; events are records"),
        ({"message_format": AvroFormat(schema_json=avro(when="long"))}, "'at' is not in the sch"),
        ({"message_format": ProtoFormat("com.shop.Payment")}, "No module named 'com'"),
        ({"message_format": ProtoFormat("com.shop.Payment")}, "name it as 'module_pb2:Message'"),
        (
            {"message_format": ProtoFormat("google.protobuf.struct_pb2:Nothing")},
            "has no message class 'Nothing'",
        ),
        (
            {"message_format": ProtoFormat("google.protobuf.timestamp_pb2:Timestamp")},
            "'at' is not in the schema",
        ),
        ({"message_format": ParquetLike()}, "its message_format is none of JsonFormat"),
        ({"tags": {"streamsvc.framing": "confluent"}}, "is for Avro and Protobuf"),
        ({"tags": {"streamsvc.framing": "apicurio"}}, "set it to 'confluent' where"),
        ({"tags": {"streamsvc.key": "crad"}}, "did you mean 'card'?"),
        ({"tags": {"streamsvc.key": "amount"}}, "a key is a string or an integer"),
        ({"tags": {"streamsvc.keys": "card"}}, "did you mean 'streamsvc.key'?"),
        ({"tags": {"streamsvc.time_unit": "m"}}, "use one of iso8601, s, ms"),
        ({"tags": {"streamsvc.start": "newest"}}, "set it to 'earliest', 'latest', or an ISO"),
        ({"tags": {"streamsvc.start": "1969-12-31"}}, "time since 1970"),
        ({"tags": {"streamsvc.start": "0001-01-01T00:00:00+05:00"}}, "time since 1970"),
        ({"timestamp_field": "items"}, "unit"),
        ({"tags": {"streamsvc.time_unit": "kafka"}}, "'at' is in the schema, but the time unit"),
    ],
)
def test_each_mistake_of_a_source_is_told_once(changes: dict[str, Any], told: str) -> None:
    found = mistakes(view(), sources=[source(**changes)])
    assert len(found) == 1
    assert told in found[0]
    assert "'payments'" in found[0]


def test_where_a_source_begins_is_compiled_and_is_of_the_definition() -> None:
    def begun(start: str | None) -> Plan:
        tags = {} if start is None else {"streamsvc.start": start}
        return compile_(view(), sources=[source(tags=tags)])

    texts = (None, "earliest", "latest", "2026-01-01", "2026-01-01T01:00:00+01:00")
    plans = [begun(text) for text in texts]
    at = 1_767_225_600_000
    assert [p.sources[0].start for p in plans] == ["earliest", "earliest", "latest", at, at]
    none, earliest, latest, one, same = (p.view("spend").definition_hash for p in plans)
    assert none == earliest
    assert one == same
    assert len({none, latest, one}) == 3
    assert starts_ahead(plans[3].sources, at) == []
    [told] = starts_ahead(plans[3].sources, at - 1)
    assert "'payments'" in told
    assert "lies ahead" in told
    assert starts_ahead(plans[2].sources, 0) == []


def test_a_topic_is_declared_once() -> None:
    found = mistakes(view(), sources=[source(), source(name="again")])
    assert len(found) == 1
    assert "is that of KafkaSource 'again' too" in found[0]


def test_all_mistakes_are_told_at_once() -> None:
    wrong = view(
        aggregations=[
            Aggregation("nothing", "avg", name="a"),
            Aggregation("amount", "sum", timedelta(milliseconds=1), name="b"),
        ]
    )
    found = mistakes(wrong, sources=[source(), source(name="other", topic="")])
    assert len(found) >= 6
    assert str(DefinitionError(found)) == "\n".join(found)


RISK = ScoringRoute(requests="payments", model="risk")
LABELLED = replace(RISK, labels="payments", label_field="refund")


def service(*features: Any, route: ScoringRoute = RISK) -> FeatureService:
    made = FeatureService(name="risk", features=list(features), tags=route.tags())
    for projection, feature_view in zip(made.feature_view_projections, features, strict=True):
        projection.features = list(feature_view.features)
    return made


def test_a_routed_service_knows_its_request_source() -> None:
    spend = view()
    plan = compile_(spend, services=[service(spend)])
    risk = plan.service("risk")
    assert risk.features == (FeatureRef("spend", "sum_amount_600s"),)
    assert risk.request is not None
    assert risk.request.topic == "payments"
    assert risk.route is not None
    assert risk.route.predictions == "predictions.risk"
    with pytest.raises(KeyError, match="there are \\['risk'\\]"):
        plan.service("rsik")


def test_a_routed_service_knows_the_source_of_its_labels() -> None:
    spend = view()
    chargebacks = source(
        name="chargebacks",
        topic="chargebacks",
        message_format=JsonFormat(schema_json="card STRING, lost DOUBLE, at STRING"),
    )
    route = replace(RISK, labels="chargebacks", label_field="lost", label_from=1)
    plan = compile_(spend, sources=[source(), chargebacks], services=[service(spend, route=route)])
    labels = plan.service("risk").labels
    assert labels is not None
    assert labels.topic == "chargebacks"
    assert compile_(spend, services=[service(spend)]).service("risk").labels is None


@pytest.mark.parametrize(
    ("route", "told"),
    [
        (replace(RISK, requests="paymnets"), "KafkaSource in the repo; did you mean 'payments'?"),
        (replace(RISK, keys={"card": "crad"}), "no field 'crad' for join key 'card'"),
        (replace(RISK, keys={"card": "shop"}), "is int64, but join key 'card' is string"),
        (replace(RISK, keys={"crad": "card"}), "which is no join key; did you mean 'card'?"),
        (replace(LABELLED, labels="paymnets"), "its labels topic 'paymnets' has no KafkaSource"),
        (replace(LABELLED, label_field="refunded"), "label_field names: did you mean 'refund'?"),
        (replace(LABELLED, label_field="card"), "'card' is a string; a label is a number."),
        (replace(LABELLED, label_id="id"), "no field 'id', which label_id names: there are"),
        (replace(LABELLED, label_id="shop"), "which label_id names, is int64, not string."),
    ],
)  # fmt: skip
def test_each_mistake_of_a_route_is_told_with_its_fix(route: ScoringRoute, told: str) -> None:
    spend = view()
    found = mistakes(spend, services=[service(spend, route=route)])
    assert len(found) == 1
    assert told in found[0]


def _batch_view(dtype: Any) -> FeatureView:
    made = FeatureView(
        name="profile",
        entities=[CARD],
        source=FileSource(name="profiles", path="x.parquet", timestamp_field="at"),
        schema=[Field(name="card", dtype=String), Field(name="tier", dtype=dtype)],
        ttl=timedelta(days=2),
    )
    made.features = [*made.entity_columns, *made.features]
    return made


def test_batch_and_on_demand_views_are_compiled() -> None:
    import pandas as pd

    request = RequestSource(name="asked", schema=[Field(name="amount", dtype=Float64)])
    profile = _batch_view(Float32)

    @on_demand_feature_view(
        sources=[profile, request], schema=[Field(name="weighed", dtype=Float64)]
    )
    def weighed(inputs):  # type: ignore[no-untyped-def]
        inputs["weighed"] = inputs["amount"] * inputs["tier"]
        return inputs[["weighed"]]

    plan = compile_(services=[service(weighed)], batch_views=[profile], on_demand_views=[weighed])
    assert plan.batch_views[0].features == ("tier",)
    assert plan.batch_views[0].ttl_ms == 2 * 86_400_000
    made = plan.on_demand_views[0]
    assert made.request_fields == {"amount": "Float64"}
    assert made.source_features == (FeatureRef("profile", "tier"),)
    out = made.transform(pd.DataFrame({"amount": [2.0], "tier": [3.0]}))
    assert out["weighed"].tolist() == [6.0]


@pytest.mark.parametrize("singleton", [False, True])
def test_on_demand_views_in_python_mode_take_frames_too(singleton: bool) -> None:
    import pandas as pd

    request = RequestSource(name="asked", schema=[Field(name="amount", dtype=Float64)])

    @on_demand_feature_view(
        sources=[request],
        schema=[Field(name="twice", dtype=Float64)],
        mode="python",
        singleton=singleton,
    )
    def twice(inputs):  # type: ignore[no-untyped-def]
        amount = inputs["amount"]
        return {"twice": amount * 2 if singleton else [a * 2 for a in amount]}

    plan = compile_(services=[service(twice)], on_demand_views=[twice])
    frame = pd.DataFrame({"amount": [1.0, 2.0]}, index=[5, 9])
    out = plan.on_demand_views[0].transform(frame)
    assert out["twice"].tolist() == [2.0, 4.0]
    assert out.index.tolist() == [5, 9]


def test_a_model_takes_numbers() -> None:
    profile = _batch_view(String)
    found = mistakes(services=[service(profile)], batch_views=[profile])
    assert len(found) == 1
    assert "profile:tier is String, and a model takes numbers" in found[0]


def test_a_request_must_carry_what_an_on_demand_view_asks_for() -> None:
    request = RequestSource(name="asked", schema=[Field(name="amuont", dtype=Float64)])

    @on_demand_feature_view(sources=[request], schema=[Field(name="twice", dtype=Float64)])
    def twice(inputs):  # type: ignore[no-untyped-def]
        return inputs.assign(twice=inputs["amuont"] * 2)[["twice"]]

    found = mistakes(services=[service(twice)], on_demand_views=[twice])
    assert len(found) == 1
    assert "no field 'amuont', which an OnDemandFeatureView asks for; did you mean" in found[0]


def test_a_directory_that_is_no_repo_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="streamsvc init"):
        load_plan(tmp_path)


YAML = """
project: payments
provider: local
registry: data/registry.db
online_store: {type: sqlite, path: data/online.db}
entity_key_serialization_version: 3
"""


def test_the_payments_repo_is_applied_and_loaded_twice_alike(tmp_path: Path) -> None:
    repo = tmp_path / "payments"
    shutil.copytree(Path(__file__).parents[2] / "repos" / "payments", repo)
    (repo / "feature_store.yaml").write_text(YAML)
    (repo / "data").mkdir()
    with pytest.raises(ConfigurationError, match="Nothing is applied"):
        load_plan(repo)
    command = [sys.executable, "-m", "feast.cli.cli", "apply"]
    if (script := Path(sys.executable).with_name("feast")).exists():
        command = [str(script), "apply"]
    root = str(Path(__file__).parents[3])
    subprocess.run(command, cwd=repo, check=True, capture_output=True, env={"PYTHONPATH": root})
    plan = load_plan(repo)
    code = (
        "import sys; from pathlib import Path;"
        "from streamsvc.definitions.registry import load_plan;"
        "print([v.definition_hash for v in load_plan(Path(sys.argv[1])).views])"
    )
    other = subprocess.run(
        [sys.executable, "-c", code, str(repo)], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": root, "PYTHONHASHSEED": "7"},
    )  # fmt: skip
    assert other.stdout.strip() == str([v.definition_hash for v in plan.views])
    assert [v.name for v in plan.views] == [
        "card_abroad", "card_habits", "card_in_shop", "card_newest", "card_spend", "shop_sales",
    ]  # fmt: skip
    assert plan.view("card_in_shop").join_keys == (
        JoinKey("card_id", "string"),
        JoinKey("shop_id", "int64"),
    )
    assert plan.view("card_abroad").column_types == {
        "amount_abroad": "float64",
        "amount_per_item": "float64",
    }
    assert [f.view for f in plan.service("payment_risk").features][-1] == "shop_sales"


PAYMENT = {"card": "string", "shop": "long", "amount": "double", "items": "long"}
MILLIS = {"type": "long", "logicalType": "timestamp-millis"}


def test_avro_and_its_framing_are_compiled() -> None:
    given = {"message_format": AvroFormat(schema_json=avro(**PAYMENT, at=MILLIS))}
    plain = compile_(view(), sources=[source(**given)])
    framed = compile_(view(), sources=[source(**given, tags={"streamsvc.framing": "confluent"})])
    schema = plain.sources[0].schema
    assert schema.time_unit == "ms"
    assert isinstance(schema.encoding, AvroEncoding)
    assert not schema.encoding.framed
    assert framed.sources[0].schema.encoding == replace(schema.encoding, framed=True)


def test_words_about_a_schema_do_not_rebuild_a_view_but_defaults_do() -> None:
    def hash_of(**changes: Any) -> str:
        record = json.loads(avro(**PAYMENT, at=MILLIS))
        record["fields"][2].update(changes)
        text = json.dumps(record, indent=1 + len(changes))
        made = compile_(view(), sources=[source(message_format=AvroFormat(schema_json=text))])
        return made.view("spend").definition_hash

    assert hash_of(doc="In euros.") == hash_of()
    assert hash_of(default=1.0) != hash_of()


@pytest.mark.parametrize("path", ["shop.payment_pb2:Payment", "shop.payment_pb2.Payment"])
def test_a_protobuf_class_is_found_in_the_repo(tmp_path: Path, path: str) -> None:
    package = tmp_path / "shop"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "payment_pb2.py").write_text(GENERATED)
    objects = FeastObjects(
        project="p",
        kafka_sources=[source(message_format=ProtoFormat(path), timestamp_field="at")],
    )
    before = list(sys.path)
    schema = compile_plan(objects, tmp_path).sources[0].schema
    assert sys.path == before
    assert isinstance(schema.encoding, ProtobufEncoding)
    assert schema.encoding.message == "till.Payment"
    assert schema.time_unit == "us"
    assert [(f.name, f.type, f.nullable) for f in schema.fields] == [
        ("card", "string", False),
        ("amount", "float64", True),
        ("at", "int64", False),
    ]


GENERATED = """
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

file = descriptor_pb2.FileDescriptorProto(name="till/h.proto", package="till", syntax="proto3")
file.dependency.append("google/protobuf/timestamp.proto")
message = file.message_type.add(name="Payment")
message.field.add(name="card", number=1, type=9, label=1)
message.field.add(name="amount", number=2, type=1, label=1, oneof_index=0, proto3_optional=True)
message.field.add(name="at", number=3, type=11, label=1, type_name=".google.protobuf.Timestamp")
message.oneof_decl.add(name="_amount")
pool = descriptor_pool.Default()
pool.AddSerializedFile(file.SerializeToString())
Payment = message_factory.GetMessageClass(pool.FindMessageTypeByName("till.Payment"))
"""
