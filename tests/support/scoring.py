"""A small scoring plan, chunks of its requests, and stand-ins for store and model server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import orjson

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import (
    Aggregate,
    BatchView,
    EventField,
    EventSchema,
    FeatureRef,
    JoinKey,
    OnDemandView,
    Plan,
    Route,
    Service,
    Source,
    View,
)
from streamsvc.errors import UnavailableError
from streamsvc.models.artifact import Golden, ModelCard
from streamsvc.models.golden import choose_golden
from streamsvc.models.histogram import histogram
from streamsvc.scoring.records import Predictions
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.fetch_decoding import chunk_of_records

NOW_MS = 1_700_000_000_000

REQUESTS = Source(
    name="requests",
    topic="requests",
    schema=EventSchema(
        fields=(
            EventField("card", ("card",), "string"),
            EventField("shop_id", ("shop_id",), "int64"),
            EventField("amount", ("amount",), "float64"),
            EventField("at", ("at",), "int64"),
        ),
        timestamp_field="at",
        time_unit="ms",
    ),
    allowed_lateness_ms=0,
    max_future_ms=3_600_000,
    key_field=None,
    archive_path=None,
)
PAYMENTS = Source(
    name="payments",
    topic="payments",
    schema=replace(
        REQUESTS.schema,
        fields=(*REQUESTS.schema.fields, EventField("shop", ("shop",), "int64")),
    ),
    allowed_lateness_ms=0,
    max_future_ms=3_600_000,
    key_field="card",
    archive_path=None,
)


def view(name: str, source: Source, join_key: JoinKey, *features: str) -> View:
    """Every feature counts if its name starts with `count`, else sums."""
    return View(
        name=name,
        source=source,
        join_keys=(join_key,),
        aggregates=tuple(
            Aggregate(f, "amount", "count" if f.startswith("count") else "sum", 60_000, 1_000)
            for f in sorted(features)
        ),
        feature_types={f: "Int64" if f.startswith("count") else "Float64" for f in features},
        udf=None,
        ttl_ms=None,
        definition_hash="0",
    )


CARDS = view("cards", PAYMENTS, JoinKey("card", "string"), "count_1m", "sum_1m")
SHOPS = view("shops", PAYMENTS, JoinKey("shop", "int64"), "count_1h", "sum_1h")
LIMITS = BatchView(
    name="limits",
    join_keys=(JoinKey("card", "string"),),
    features=("limit",),
    feature_types={"limit": "Float32"},
    ttl_ms=10_000,
)


def ratio(frame):
    """Fails on an amount of 666."""
    if (frame["amount"] == 666).any():
        raise ValueError("unlucky amount")
    return frame.assign(ratio=frame["amount"] / frame["limit"])[["ratio"]]


RATIO = OnDemandView(
    name="ratios",
    features=("ratio",),
    request_fields={"amount": "Float64"},
    source_features=(FeatureRef("limits", "limit"),),
    transform=ratio,
)
FEATURES = ("shops:sum_1h", "cards:sum_1m", "ratios:ratio", "cards:count_1m", "limits:limit")


def plan(tag: str = "", request: str = "requests", **route: object) -> Plan:
    """`tag` goes in front of project, topics and service, so that tests do not meet each other."""
    sources = {s.name: replace(s, topic=f"{tag}{s.topic}") for s in (REQUESTS, PAYMENTS)}
    options = {
        "requests": sources[request].topic,
        "model": "risk",
        "predictions": f"predictions.{tag}risky",
        "keys": {"shop": "shop_id"},
    }
    service = Service(
        name=f"{tag}risky",
        features=tuple(FeatureRef(*name.split(":")) for name in sorted(FEATURES)),
        route=Route(**{**options, **route}),  # type: ignore[arg-type]
        request=sources[request],
    )
    return Plan(
        project=f"{tag}p",
        sources=tuple(sources.values()),
        views=tuple(replace(v, source=sources["payments"]) for v in (CARDS, SHOPS)),
        batch_views=(LIMITS,),
        on_demand_views=(RATIO,),
        services=(service,),
    )


def card(features: Sequence[str] = FEATURES) -> ModelCard:
    nothing = histogram(np.array([0.0, 1.0], np.float32))
    return ModelCard(
        model="risk",
        version=3,
        service="risky",
        features=list(features),
        trained_from_ms=0,
        trained_until_ms=1,
        rows=2,
        metrics={},
        histograms=dict.fromkeys(features, nothing),
        score=nothing,
        golden=Golden([], []),
    )


def trained() -> tuple[ModelCard, bytes]:
    """A model of the features, and its card with golden vectors."""
    import xgboost

    rng = np.random.default_rng(3)
    matrix = (10 * rng.normal(size=(400, len(FEATURES)))).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    labels = np.nan_to_num(matrix[:, 0]) + np.nan_to_num(matrix[:, 1]) > 0
    booster = xgboost.train(
        {"objective": "binary:logistic", "nthread": 1}, xgboost.DMatrix(matrix, labels), 8
    )
    golden = choose_golden(matrix, booster.inplace_predict)
    return msgspec.structs.replace(card(), golden=golden), bytes(booster.save_raw("ubj"))


CLASSES = ("pale", 'red "hot"', "100%")


def trained_classes() -> tuple[ModelCard, bytes]:
    """A model that tells three classes apart."""
    import xgboost

    rng = np.random.default_rng(4)
    matrix = (10 * rng.normal(size=(600, len(FEATURES)))).astype(np.float32)
    matrix[rng.random(matrix.shape) < 0.2] = np.nan
    classes = (np.nan_to_num(matrix[:, 0]) > 0).astype(int) + (np.nan_to_num(matrix[:, 1]) > 0)
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "nthread": 1},
        xgboost.DMatrix(matrix, classes),
        8,
    )
    golden = choose_golden(matrix, booster.inplace_predict)
    made = msgspec.structs.replace(
        card(), golden=golden, task="multiclass", classes=list(CLASSES), outputs=3
    )
    return made, bytes(booster.save_raw("ubj"))


def request(card: str | None = "c1", shop: int | None = 7, amount: float = 5.0, at: int = NOW_MS):
    """`shop` is what feature views know the shop as."""
    return orjson.dumps({"card": card, "shop_id": shop, "shop": shop, "amount": amount, "at": at})


def chunk(
    values: Sequence[bytes | None],
    *,
    topic: str = "requests",
    partition: int = 0,
    first: int = 0,
    headers: Sequence[Sequence[tuple[str, bytes | None]]] | None = None,
    timestamps: Sequence[int] | None = None,
) -> Chunk:
    records = [
        SimpleNamespace(
            offset=first + i,
            timestamp=NOW_MS if timestamps is None else timestamps[i],
            key=None,
            value=value,
            headers=() if headers is None else headers[i],
        )
        for i, value in enumerate(values)
    ]
    return chunk_of_records(topic, partition, records, first, first + len(records))


class Model:
    """A model server whose scores are the first feature, or 0.25 where it is missing."""

    def __init__(self, name: str = "triton", error: str | None = None) -> None:
        self.name = name
        self.error = error
        self.calls: list[np.ndarray] = []
        self.timeouts: list[float] = []
        self.recovered = 0
        self.closed = False

    async def predict(self, inputs, timeout_s):
        self.calls.append(inputs)
        self.timeouts.append(timeout_s)
        await asyncio.sleep(0)
        if self.error is not None:
            raise UnavailableError(self.error)
        return np.where(np.isnan(inputs[:, :1]), np.float32(0.25), inputs[:, :1])

    async def recover(self, timeout_s):
        self.recovered += 1
        if self.error is not None:
            raise UnavailableError(self.error)

    async def close(self):
        self.closed = True


STAGES = {"decode": 0.5, "freshness": 0.0, "features": 1.25, "model": 2.0}


def predictions(n=2, score=None, **changes) -> Predictions:
    """`score` are those of a model that has one for each request."""
    if score is not None:
        changes["scores"] = score[:, None]
    whole = Predictions(
        service="risk",
        model="m",
        model_version="3",
        variant="champion",
        topic="requests",
        topic_id="AbCdEfGhIjKl",
        partition=np.arange(n) % 2,
        offset=np.arange(n) + 40,
        entity={"card": strings(["c"] * n), "shop": numeric(np.arange(n))},
        scores=np.linspace(0, 1, n, dtype=np.float32)[:, None],
        classes=[],
        threshold=0.5,
        request_time_ms=np.arange(n) + 1_000,
        as_of_ms=np.arange(n) - 1,
        stale_ms=np.zeros(n, np.int64),
        ahead_ms=np.zeros(n, np.int64),
        fallback=[None] * n,
        failed=np.zeros(n, np.bool_),
        queue_ms=np.zeros(n, np.int64),
        stage_ms=STAGES,
    )
    return replace(whole, **changes)
