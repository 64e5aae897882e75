"""Prediction records: JSON that the published schema accepts, ids that never change."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import numpy as np
import orjson
from hypothesis import given, settings
from hypothesis import strategies as st
from support.scoring import STAGES, predictions

from streamsvc.columns import BytesColumn, numeric, strings
from streamsvc.record_text import entity_texts
from streamsvc.scoring.records import (
    Predictions,
    prediction_ids,
    prediction_records,
)

SCHEMA = orjson.loads((Path(__file__).parents[3] / "docs" / "prediction.schema.json").read_bytes())


def told(column: BytesColumn):
    return column.to_bytes_list()


def ids(p: Predictions):
    return told(prediction_ids(p))


def decoded(p: Predictions):
    found = [orjson.loads(r) for r in told(prediction_records(p, prediction_ids(p)))]
    for record in found:
        jsonschema.validate(record, SCHEMA)
    return found


def test_a_record_says_everything():
    first, second = decoded(predictions(fallback=[None, "in-process"], stale_ms=np.array([0, 9])))
    assert first == {
        "prediction_id": "risk-requests-0-40-AbCdEfGh",
        "service": "risk",
        "entity": {"card": "c", "shop": 0},
        "score": 0.0,
        "decision": False,
        "model": "m",
        "model_version": "3",
        "variant": "champion",
        "request_time_ms": 1_000,
        "as_of_ms": None,
        "stale_ms": 0,
        "ahead_ms": 0,
        "fallback": None,
        "latency_ms": {"queue": 0, **STAGES},
        "source": {"topic": "requests", "partition": 0, "offset": 40},
    }
    assert second["decision"] is True
    assert second["fallback"] == "in-process"
    assert (second["as_of_ms"], second["stale_ms"]) == (0, 9)


def test_classes_are_told_with_a_score_each_and_the_most_probable_decides():
    scores = np.array([[0.125, 0.5, 0.375], [0.25, 0.25, 0.5]], np.float32)
    names = ["on time", 'a "little" late', "100%d"]
    first, second = decoded(predictions(scores=scores, classes=names))
    assert (first["score"], first["decision"]) == (0.5, names[1])
    assert first["scores"] == dict(zip(names, [0.125, 0.5, 0.375], strict=True))
    assert (second["score"], second["decision"]) == (0.5, names[2])
    equals = predictions(scores=np.full((2, 3), 0.25, np.float32), classes=names)
    assert {r["decision"] for r in decoded(equals)} == {names[0]}


@settings(deadline=None)
@given(
    # Services and topics are named as Kafka allows; models as file systems do.
    st.text("abcXYZ019._-%", max_size=20),
    st.lists(
        st.tuples(
            st.none() | st.text(max_size=20),
            st.none() | st.integers(-(2**63), 2**63 - 1),
            st.floats(0, 1, width=32),
        ),
        min_size=1,
        max_size=5,
    ),
)
def test_any_text_any_number_comes_back(name, rows):
    cards, shops, scores = (list(c) for c in zip(*rows, strict=True))
    shop = numeric(np.array([s or 0 for s in shops], np.int64))
    shop.valid[:] = [s is not None for s in shops]
    p = predictions(
        len(rows),
        service=name,
        model=name,
        topic=name,
        entity={"card": strings(cards), "sh%op": shop},
        score=np.array(scores, np.float32),
    )
    for record, (card, number, score) in zip(decoded(p), rows, strict=True):
        assert record["entity"] == {"card": card, "sh%op": number}
        assert np.float32(record["score"]) == np.float32(score)
        assert record["service"] == record["model"] == record["source"]["topic"] == name


def test_ids_depend_on_the_request_alone():
    scored_once = predictions(
        fallback=["default"] * 2, model_version="9", queue_ms=np.array([5, 6])
    )
    assert ids(scored_once) == ids(predictions())
    assert ids(predictions(topic_id="another1")) != ids(predictions())
    assert len(set(ids(predictions(50)))) == 50


def test_keys_are_the_join_keys_as_text():
    entity = {"b": numeric([7, None]), "a": strings(["x", "y"])}
    assert told(entity_texts(entity)) == [b"x|7", b"y|"]
    assert told(entity_texts({"b": entity["b"]})) == [b"7", b""]
