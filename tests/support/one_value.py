"""Feature workers in this process, over views whose one feature holds all events of an entity."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
from confluent_kafka import Producer
from redis import Redis
from support.scoring import PAYMENTS
from support.standstill import standstill

from streamsvc.agents.features import FeatureWorker
from streamsvc.agents.preparing import prepare_topology
from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import (
    LIFETIME_MS,
    Aggregate,
    FieldType,
    JoinKey,
    Plan,
    Source,
    View,
)
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.monitor.metrics import FeatureMetrics
from streamsvc.settings import Settings
from streamsvc.store.reader import RowReader
from streamsvc.store.row import RowLayout, Rows
from streamsvc.transport.app import serve

CARDS = [f"c{i}" for i in range(12)]
SHOPS = list(range(7))
START_MS = 1_700_000_000_000


def cards(function: str = "sum", name: str = "cards", source: Source = PAYMENTS) -> View:
    """By the key that PAYMENTS declares: reads its partitions directly."""
    return _view(name, "card", "string", function, source)


def shops(function: str = "sum", name: str = "shops", source: Source = PAYMENTS) -> View:
    """Behind the shuffle."""
    return _view(name, "shop_id", "int64", function, source)


def _view(name: str, key: str, kind: FieldType, function: str, source: Source) -> View:
    return View(
        name=name,
        source=source,
        join_keys=(JoinKey(key, kind),),
        aggregates=(Aggregate("value", "amount", function, LIFETIME_MS, LIFETIME_MS),),
        feature_types={"value": "Float64"},
        udf=None,
        ttl_ms=None,
        definition_hash=f"{name} {function} {source.schema} {source.start}",
        column_types={"amount": "float64"},
    )


def payments(
    numbers: range, amount: Callable[[int], float] = lambda _: 1.0
) -> list[dict[str, Any]]:
    """One a millisecond, of cards and shops in turn."""
    return [
        {
            "card": CARDS[i % len(CARDS)],
            "shop_id": SHOPS[i % len(SHOPS)],
            "amount": amount(i),
            "at": START_MS + i,
        }
        for i in numbers
    ]


def produce(
    settings: Settings, topic: str, events: list[dict[str, Any]], kafka_ms: int = 0
) -> None:
    """Each under its card, where Kafka's own clients put it."""
    producer = Producer(
        {
            "bootstrap.servers": settings.kafka_bootstrap_servers,
            "partitioner": "murmur2_random",
        }
    )
    for event in events:
        producer.produce(topic, orjson.dumps(event), event["card"], timestamp=kafka_ms)
    assert producer.flush(30) == 0


@contextlib.asynccontextmanager
async def feature_worker(
    settings: Settings, plan: Plan, *, crashes: bool = False
) -> AsyncIterator[FeatureWorker]:
    """A worker that runs inside, and ends as one that was killed does, if it `crashes`."""
    worker = FeatureWorker(settings, await prepare_topology(settings, plan), FeatureMetrics())
    stop = asyncio.Event()
    await worker.start()
    tidy = asyncio.create_task(worker._tidying.run())
    serving = asyncio.create_task(serve(worker.app, stop))
    try:
        yield worker
        assert not serving.done(), serving.exception()
        if crashes:
            await worker.app.crash(RuntimeError("killed by the test"))
    except (AssertionError, TimeoutError):
        print(standstill(worker))
        raise
    finally:
        tidy.cancel()
        stop.set()
        await asyncio.wait([serving])


def rows_of(client: Redis, project: str, view: str, entities: list[Any]) -> Rows:
    column = strings(entities) if isinstance(entities[0], str) else numeric(entities)
    layout = RowLayout({"value": "Float64"})
    return RowReader(client, project).read(view, layout, encode_entity_keys([column]))


def values_of(client: Redis, project: str, view: str, entities: list[Any]) -> dict[Any, Any]:
    """Entity -> what the store has of it."""
    found = rows_of(client, project, view, entities).values["value"].to_pylist()
    return dict(zip(entities, found, strict=True))
