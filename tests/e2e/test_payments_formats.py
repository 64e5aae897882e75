"""The payments in Avro and in Protobuf, behind Schema Registry headers, equal the oracle.

The Avro producers move to another schema in mid-stream, and for a while both are about; the
registry is away when the worker meets the first record.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter

import pytest
from support.payments import START_MS, VIEWS, generate
from support.payments_formats import (
    AVRO_V1,
    AVRO_V2,
    PROTO,
    AvroPayments,
    ProtobufPayments,
    converted,
)
from support.proxy import Relay
from support.repo import RunningRepo
from support.served import assert_served

N = 12_000


def avro(stack, registry) -> AvroPayments:
    subject = f"{stack.unique('payments')}-value"
    schemas = [json.dumps(schema) for schema in (AVRO_V1, AVRO_V2)]
    return AvroPayments(tuple(registry.register(subject, schema) for schema in schemas))


def protobuf(stack, registry) -> ProtobufPayments:
    return ProtobufPayments(registry.register(stack.unique("payments"), PROTO, "PROTOBUF"))


@pytest.mark.parametrize("make", [avro, protobuf])
async def test_served_values_equal_the_oracle(stack, registry, tmp_path, make):
    used = make(stack, registry)
    first = converted(generate(N // 2, seed=1).records, used, 0)
    start = START_MS + N // 2 * 400
    second = converted(generate(N // 2, seed=2, start_ms=start).records, used, 1)
    # Producers do not all move at once.
    after = [*first[-200:], *second[:200]]
    after = [after[k] for k in sorted(range(400), key=lambda k: (k % 200, k))]
    records = [*first[:-200], *after, *second[200:]]
    relay = Relay(registry.address)
    async with relay:
        await relay.cut()
        url = registry.url.replace(registry.address, relay.address)
        environment = {"PAYMENTS_FORMAT": make.__name__, "STREAMSVC_SCHEMA_REGISTRY_URL": url}
        with RunningRepo(stack, tmp_path, "payments", **environment) as repo:
            repo.create_topic(4)
            repo.apply()
            repo.run(sys.executable, "-m", "streamsvc", "check")
            repo.start_worker("w0")
            repo.produce(records)
            await until(lambda: "schema_registry_away" in repo.log_of("w0"), repo)
            await relay.restore()
            truth = await asyncio.to_thread(assert_served, repo, VIEWS, used.decode)
            reasons = repo.dead_letter_reasons()
            assert sum(reasons.values()) == truth.refused
            wanted = {f"bad_{make.__name__}", "unknown_schema", "bad_header", "late", "null_value"}
            assert wanted <= set(reasons), Counter(reasons)
            repo.assert_workers_alive()


async def test_a_registry_that_stays_away_stops_the_worker(stack, tmp_path):
    """With the exit code that tells a supervisor to try again, and nothing in the dead letters."""
    environment = {
        "PAYMENTS_FORMAT": "avro",
        "STREAMSVC_SCHEMA_REGISTRY_URL": "http://127.0.0.1:1",
        "STREAMSVC_SCHEMA_REGISTRY_PATIENCE_S": "1",
    }
    with RunningRepo(stack, tmp_path, "payments", **environment) as repo:
        repo.create_topic(1)
        repo.apply()
        process = repo.start_worker("w0")
        used = AvroPayments((1, 2))
        repo.produce(converted(generate(20, seed=5).records[:9], used, 0))
        assert await asyncio.to_thread(process.wait, 90) == 3
        assert "set schema_registry_url" in repo.log_of("w0")
        assert repo.dead_letter_reasons() == {}


async def until(condition, repo) -> None:
    for _ in range(900):
        if condition():
            return
        repo.assert_workers_alive()
        await asyncio.sleep(0.1)
    raise AssertionError(repo.log_of("w0")[-3000:])
