"""Events that happened when their record says that it was written."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from google.protobuf.duration_pb2 import Duration

from streamsvc.columns import strings
from streamsvc.definitions.plan import EventSchema, Source
from streamsvc.errors import DefinitionError
from streamsvc.events.decode import Decoder
from streamsvc.events.sample import sample_value
from streamsvc.events.schema import parse_avro_schema, parse_protobuf_schema, parse_schema

AVRO = json.dumps(
    {
        "type": "record",
        "name": "E",
        "fields": [
            {"name": "seconds", "type": "long"},
            {"name": "tags", "type": {"type": "array", "items": "string"}},
            {"name": "when", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        ],
    }
)
SCHEMAS = {
    "json": lambda time: parse_schema("seconds BIGINT NOT NULL, text STRING", time, "kafka"),
    "avro": lambda time: parse_avro_schema(AVRO, time, "kafka", framed=False),
    "protobuf": lambda time: parse_protobuf_schema(
        Duration.DESCRIPTOR, time, "kafka", framed=False
    ),
}
VALUES = {
    "json": b'{"seconds":5,"at":"never"}',
    "avro": b"\x0a\x00\x02",
    "protobuf": Duration(seconds=5).SerializeToString(),
}


def decode(schema: EventSchema, values: list[bytes], timestamps: list[int]) -> Any:
    source = Source("s", "t", schema, 0, 0, None, None)
    decoder = Decoder(source, max_record_bytes=1 << 20)
    return decoder.decode(strings(values), np.array(timestamps, np.int64))


@pytest.mark.parametrize("encoding", list(SCHEMAS))
def test_it_is_a_column_that_no_value_holds(encoding: str) -> None:
    schema = SCHEMAS[encoding]("at")
    assert [schema.fields[-1].name, schema.fields[-1].type] == ["at", "int64"]
    assert schema.in_values == schema.fields[:-1]
    values = [VALUES[encoding], VALUES[encoding], b"\xff", VALUES[encoding], sample_value(schema)]
    found = decode(schema, values, [1_700_000_000_123, -1, 7, 0, 1])
    assert found.ok.tolist() == [True, False, False, True, True]
    assert found.event_time[found.ok].tolist() == [1_700_000_000_123, 0, 1]
    assert found.columns["at"].to_pylist()[0] == 1_700_000_000_123
    assert found.columns["seconds"].to_pylist()[0] == 5
    reasons = {r.row: (r.reason, r.error) for r in found.rejects}
    assert reasons[1] == (
        "bad_event_time",
        "The record has no Kafka timestamp, which is its event time.",
    )
    assert reasons[2][0] == f"bad_{encoding}"


def test_a_time_that_is_none_is_told_as_it_is() -> None:
    found = decode(SCHEMAS["json"]("at"), [VALUES["json"]], [2**60])
    [reject] = found.rejects
    assert reject.reason == "bad_event_time"
    assert reject.error == f"Kafka timestamp {2**60} lies after the year 9999."


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("json", "seconds"), ("avro", "seconds"), ("avro", "when"), ("protobuf", "seconds")],
)
def test_a_field_of_the_values_cannot_have_its_name(encoding: str, name: str) -> None:
    with pytest.raises(DefinitionError, match="give it a name of its own"):
        SCHEMAS[encoding](name)
