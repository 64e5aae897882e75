"""Bytewax: a ring in `stateful_map`. Its own windows tell nothing before they close."""

import os

import bytewax.operators as op
import orjson
import ring
from bytewax.connectors.kafka import KafkaSinkMessage
from bytewax.connectors.kafka import operators as kop
from bytewax.dataflow import Dataflow
from confluent_kafka import OFFSET_BEGINNING

LATENCY = os.environ["LATENCY"] == "1"
BROKERS = [os.environ["BROKERS"]]


def count(buckets, payment):
    if buckets is None:
        buckets = []
    return buckets, ring.update(buckets, payment)


flow = Dataflow("engines")
payments = kop.input(
    "in",
    flow,
    brokers=BROKERS,
    topics=[os.environ["INPUT"]],
    starting_offset=OFFSET_BEGINNING,
    batch_size=1 if LATENCY else 1000,
    add_config={"fetch.wait.max.ms": "5"} if LATENCY else {},
)
keyed = op.map("parse", payments.oks, lambda m: (m.key.decode(), orjson.loads(m.value)))
rows = op.stateful_map("count", keyed, count)
out = op.map("print", rows, lambda kv: KafkaSinkMessage(kv[0].encode(), orjson.dumps(kv[1])))
kop.output("out", out, brokers=BROKERS, topic=os.environ["OUTPUT"])
