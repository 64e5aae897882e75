from __future__ import annotations

import json

import numpy as np
from support.scoring import predictions

from streamsvc.scoring.records import prediction_ids
from streamsvc.scoring.served_log import MAX_RECORD_BYTES, read_served, served_records
from streamsvc.scoring.vectors import Position, Vectors


def vectors(n, width=3):
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(n, width)).astype(np.float32)
    matrix[::3, 0] = np.nan
    position = Position(np.full(n, 4), np.arange(n), np.arange(n) + 100)
    zero = np.zeros(n, np.int64)
    return Vectors(matrix, np.arange(n) + 100, zero, zero, {"cards": position}, {}, {})


def test_a_batch_comes_back_as_it_went():
    p = predictions(4, fallback=[None, "in-process", None, "default"])
    v = vectors(4)
    names = ["cards:a", "cards:b", "shops:c"]
    (raw,) = served_records(p, prediction_ids(p), v, names)
    batch = read_served(raw)
    assert batch.schema.metadata[b"service"] == b"risk"
    assert json.loads(batch.schema.metadata[b"features"]) == names
    matrix = batch["features"].flatten().to_numpy().reshape(-1, 3)
    np.testing.assert_array_equal(matrix, v.matrix)
    rows = batch.to_pylist()
    assert [r["prediction_id"].encode() for r in rows] == prediction_ids(p).to_bytes_list()
    assert rows[2]["position.cards"] == {"incarnation": 4, "offset": 2, "as_of_ms": 102}
    assert [r["fallback"] for r in rows] == p.fallback
    assert {r["model_version"] for r in rows} == {"3"}
    assert [r["entity.shop"] for r in rows] == [0, 1, 2, 3]
    assert [r["entity.card"] for r in rows] == ["c"] * 4
    np.testing.assert_array_equal([r["score"] for r in rows], p.score)


def test_scores_of_classes_stand_beside_the_top_one():
    scores = np.array([[0.2, 0.7, 0.1], [0.5, 0.1, 0.4]], np.float32)
    p = predictions(scores=scores, classes=["a", "b", "c"])
    (raw,) = served_records(p, prediction_ids(p), vectors(2), ["v:a", "v:b", "v:c"])
    batch = read_served(raw)
    assert json.loads(batch.schema.metadata[b"classes"]) == ["a", "b", "c"]
    np.testing.assert_array_equal(batch["scores"].flatten().to_numpy().reshape(-1, 3), scores)
    np.testing.assert_array_equal(batch["score"].to_numpy(), scores.max(axis=1))
    assert (
        "scores"
        not in read_served(
            served_records(
                predictions(), prediction_ids(predictions()), vectors(2), ["v:a", "v:b", "v:c"]
            )[0]
        ).schema.names
    )


def test_a_long_batch_becomes_several_records_of_bounded_size():
    p, v = predictions(20_000), vectors(20_000, 40)
    records = served_records(p, prediction_ids(p), v, [f"v:{i}" for i in range(40)])
    assert max(map(len, records)) < 1.2 * MAX_RECORD_BYTES
    batches = [read_served(raw) for raw in records]
    matrix = np.concatenate([b["features"].flatten().to_numpy().reshape(-1, 40) for b in batches])
    np.testing.assert_array_equal(matrix, v.matrix)


def test_nothing_served_is_no_record():
    assert served_records(predictions(0), [], vectors(0), ["a", "b", "c"]) == []
