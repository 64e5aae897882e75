"""Samples are events of their schema, whatever the encoding."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamsvc.columns import strings
from streamsvc.definitions.plan import EventSchema, Source
from streamsvc.events.decode import Decoder
from streamsvc.events.sample import sample_value
from streamsvc.events.schema import parse_avro_schema, parse_protobuf_schema, parse_schema

from .avro_records import records, stamped
from .proto_messages import files, message_class


class Nothing:
    def schema(self, schema_id: int) -> None:
        raise AssertionError(schema_id)


def check(schema: EventSchema) -> None:
    source = Source("s", "t", schema, 0, 0, None, None)
    decoder = Decoder(source, max_record_bytes=1 << 20, registry=Nothing())
    found = decoder.decode(strings([sample_value(schema)]), np.array([-1]))
    assert found.ok.all(), found.rejects
    assert found.event_time.tolist() == [1_577_836_800_000]


@pytest.mark.parametrize("time", [("STRING", None), ("BIGINT", "us"), ("DOUBLE", "s")])
def test_json(time):
    check(parse_schema(f"a STRUCT<b: INT>, c STRING, at {time[0]}", "at", time[1]))


@settings(deadline=None, max_examples=60)
@given(records(), st.booleans(), st.sampled_from(["s", "ms", "us", "ns"]))
def test_avro(record, framed, unit):
    check(parse_avro_schema(json.dumps(stamped(record)), "at", unit, framed=framed))


@settings(deadline=None, max_examples=60)
@given(files(), st.booleans())
def test_protobuf(file, framed):
    kind = message_class(file)
    check(parse_protobuf_schema(kind.DESCRIPTOR, "at", "ms", framed=framed))
