"""The loop that a Feast user writes: consume, ask Feast, ask Triton, produce. As they would.

Features come through the SDK or from Feast's feature server (HTTP), both on Feast's own Redis
store; requests in batches or one by one. It waits for no freshness and logs no vector, which is in
its favour.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from streamsvc.definitions.plan import BatchView, Plan, View
from streamsvc.feast_import import import_feast
from streamsvc.models.triton_config import INPUT, OUTPUT
from streamsvc.settings import Settings
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["FeastRepo", "Features", "Loop", "feature_server"]

Features = Callable[[list[dict[str, Any]]], Any]
"""Requests -> their features, shape (n, features) as float32, in the model's order."""
PATIENCE_S = 60.0


class FeastRepo:
    """The views of a plan as a Feast repo on Feast's own Redis store, and the rows in it."""

    def __init__(self, settings: Settings, running: Plan, directory: Path) -> None:
        import_feast()
        from feast import FeatureStore

        self.directory = directory
        self._views = (*running.views, *running.batch_views)
        self._refs = [str(ref) for ref in running.services[0].features]
        url = settings.redis_url.get_secret_value()
        address, _, database = url.removeprefix("redis://").partition("/")
        (directory / "feature_store.yaml").write_text(
            f"project: {running.project.replace('-', '_')}\n"
            f"provider: local\nregistry: {directory}/registry.db\n"
            f'online_store:\n  type: redis\n  connection_string: "{address},db={database or 0}"\n'
            "entity_key_serialization_version: 3\n"
        )
        self.store = FeatureStore(repo_path=str(directory))
        self.store.apply(self._objects())
        self._service = self.store.get_feature_service("all")

    def _objects(self) -> list[Any]:
        from feast import Entity, FeatureService, FeatureView, Field, FileSource
        from feast.types import Float64, Int64, String
        from feast.value_type import ValueType

        types = {"Float64": Float64, "Int64": Int64, "String": String}
        kinds = {"string": ValueType.STRING, "int64": ValueType.INT64}
        keys = {key.name: key for view in self._views for key in view.join_keys}
        entities = {
            name: Entity(name=name, join_keys=[name], value_type=kinds[key.type])
            for name, key in keys.items()
        }
        views = [
            FeatureView(
                name=view.name,
                entities=[entities[key.name] for key in view.join_keys],
                schema=[Field(name=f, dtype=types[view.feature_types[f]]) for f in view.features],
                source=FileSource(path="unused.parquet", timestamp_field="event_timestamp"),
            )
            for view in self._views
        ]
        return [*entities.values(), *views, FeatureService(name="all", features=views)]

    def write(self, view: View | BatchView, keys: Sequence[Any], values: Mapping[str, Any]) -> None:
        """Rows of a view; `values` by feature."""
        import pandas as pd

        frame = pd.DataFrame({name: values[name] for name in view.features})
        frame[view.join_keys[0].name] = list(keys)
        frame["event_timestamp"] = pd.Timestamp.now("UTC")
        self.store.write_to_online_store(view.name, frame)

    def by_sdk(self, requests: list[dict[str, Any]]) -> Any:
        """Through `get_online_features`."""
        entities = [{"card": r["card"], "shop": r["shop"]} for r in requests]
        found = self.store.get_online_features(
            self._service, entities, full_feature_names=True
        ).to_dict()
        return np.array([found[ref.replace(":", "__")] for ref in self._refs], np.float32).T

    def by_server(self, address: str) -> Features:
        """Through a feature server there."""
        import requests as http

        session = http.Session()

        def ask(requests: list[dict[str, Any]]) -> Any:
            entities = {key: [r[key] for r in requests] for key in ("card", "shop")}
            asked = {"feature_service": "all", "entities": entities, "full_feature_names": True}
            answer = session.post(f"{address}/get-online-features", json=asked, timeout=PATIENCE_S)
            answer.raise_for_status()
            found = answer.json()
            names = found["metadata"]["feature_names"]
            columns = dict(zip(names, (each["values"] for each in found["results"]), strict=True))
            return np.array([columns[r.replace(":", "__")] for r in self._refs], np.float32).T

        return ask


@contextmanager
def feature_server(repo: Path) -> Iterator[str]:
    """`feast serve`, one process; its address once it answers."""
    import requests as http

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    feast = Path(sys.executable).with_name("feast")
    command = [str(feast), "serve", "--port", str(port), "--no-access-log", "--max-requests", "0"]
    with (repo / "server.log").open("w") as log:
        child = subprocess.Popen(command, cwd=repo, stdout=log, stderr=log)
        try:
            address, until = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE_S
            while True:
                assert child.poll() is None, (repo / "server.log").read_text()[-3_000:]
                try:
                    http.get(f"{address}/health", timeout=1).raise_for_status()
                    break
                except http.RequestException:
                    assert time.monotonic() < until, "the feature server does not answer"
                    time.sleep(0.2)
            yield address
        finally:
            child.terminate()
            child.wait(PATIENCE_S)


@dataclass(frozen=True)
class Loop:
    """One form of the loop over a partition that is full already."""

    name: str
    features: Features
    batch: int
    requests: int
    """How many it answers before it stops."""

    def run(self, settings: Settings, running: Plan, partition: int) -> tuple[float, float, Any]:
        """Predictions a second, CPU seconds of this process each, and the scores by offset."""
        import tritonclient.grpc as triton
        from confluent_kafka import Consumer, Producer, TopicPartition

        base = librdkafka_config(settings)
        consumer = Consumer({**base, "group.id": f"loop-{running.project}-{self.batch}"})
        consumer.assign([TopicPartition(running.project, partition, 0)])
        producer = Producer(base)
        model = triton.InferenceServerClient(settings.triton_grpc_url)
        scores: dict[int, float] = {}
        first = self._next(consumer)  # connections are made, and what is compiled is, by now
        self._answer(first, producer, model, running, {})
        began, used = time.perf_counter(), time.process_time()
        while len(scores) < self.requests:
            self._answer(self._next(consumer), producer, model, running, scores)
        producer.flush()
        took, used = time.perf_counter() - began, time.process_time() - used
        consumer.close()
        model.close()
        return len(scores) / took, used / len(scores), scores

    def _next(self, consumer: Any) -> list[Any]:
        found: list[Any] = []
        while not found:
            found = consumer.consume(self.batch, 1.0)
            assert all(message.error() is None for message in found)
        return found

    def _answer(
        self,
        messages: list[Any],
        producer: Any,
        model: Any,
        running: Plan,
        scores: dict[int, float],
    ) -> None:
        import tritonclient.grpc as triton

        requests = [json.loads(message.value()) for message in messages]
        matrix = np.ascontiguousarray(self.features(requests))
        given = triton.InferInput(INPUT, list(matrix.shape), "FP32")
        given.set_data_from_numpy(matrix)
        found = model.infer(running.project, [given]).as_numpy(OUTPUT).reshape(-1)
        for message, request, score in zip(messages, requests, found.tolist(), strict=True):
            answer = {"card": request["card"], "score": score, "offset": message.offset()}
            producer.produce(f"loop-{running.project}", json.dumps(answer), message.key())
            scores[message.offset()] = score
        producer.poll(0)
