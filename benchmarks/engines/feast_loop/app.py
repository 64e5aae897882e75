"""The loop that a Feast user writes: consume, count, write the features online, read them back,
score them with XGBoost in the process, produce.

`event` does so for each payment, `batch` for up to 500 at once. It reads each partition up to
LIMITS, and no further, so that what the store holds in the end is known.
"""

import json
import os

import numpy as np
import orjson
import pandas as pd
import ring
import xgboost
from confluent_kafka import Consumer, Producer
from feast import FeatureStore

BATCH = 500 if os.environ["MODE"] == "batch" else 1
LIMITS = json.loads(os.environ["LIMITS"])
LATENCY = os.environ["LATENCY"] == "1"
FEATURES = ("count", "sum", "mean", "min", "max")


def model():
    """A classifier of the five features, 100 trees of depth 6."""
    rng = np.random.default_rng(0)
    rows = (rng.random((20_000, 5)) * 1000).astype(np.float32)
    labels = rows[:, 1] + 100 * rng.random(len(rows)) > 550
    parameters = {"objective": "binary:logistic", "max_depth": 6, "nthread": 1}
    return xgboost.train(parameters, xgboost.DMatrix(rows, labels), 100)


def main():
    booster, store = model(), FeatureStore(os.environ["REPO"])
    references = [f"spend:{name}" for name in FEATURES]
    consumer = Consumer(
        {"bootstrap.servers": os.environ["BROKERS"], "group.id": os.environ["GROUP"]}
        | {"auto.offset.reset": "earliest"}
        | ({"fetch.wait.max.ms": 5} if LATENCY else {})
    )
    consumer.subscribe([os.environ["INPUT"]])
    producer = Producer(
        {"bootstrap.servers": os.environ["BROKERS"]} | ({"linger.ms": 0} if LATENCY else {})
    )
    rings = {}
    while True:
        messages = consumer.consume(BATCH, timeout=0.005 if LATENCY else 0.05)
        payments = [
            orjson.loads(m.value())
            for m in messages
            if not LIMITS or m.offset() < LIMITS[m.partition()]
        ]
        if not payments:
            continue
        rows = [ring.update(rings.setdefault(p["user"], []), p) for p in payments]
        frame = pd.DataFrame(rows)
        frame["event_timestamp"] = pd.to_datetime(frame.pop("ts"), unit="ms", utc=True)
        store.write_to_online_store("spend", df=frame)
        found = store.get_online_features(
            features=references, entity_rows=[{"user": row["user"]} for row in rows]
        ).to_dict()
        matrix = np.array([found[name] for name in FEATURES], dtype=np.float32).T
        scores = booster.inplace_predict(matrix)
        for row, score in zip(rows, scores.tolist(), strict=True):
            row["score"] = score
            producer.produce(os.environ["OUTPUT"], orjson.dumps(row), row["user"].encode())
        producer.poll(0)


if __name__ == "__main__":
    main()
