"""Payments as they are published, and the archive of the same events.

PAYMENTS_TOPIC names the topic (default `payments`), so that tests can share a broker.
PAYMENTS_FORMAT is how they are written: `json` (the default), `avro` or `protobuf`, these two with
a Schema Registry header; `keyed`: JSON with epoch milliseconds, whose producers promise to
partition by card, which spares card views the shuffle; or `untimed`: JSON without a time, which
their records have. PAYMENTS_ARCHIVE is where they are archived, PAYMENTS_START where in the topic
views begin.
"""

import os
from datetime import timedelta
from pathlib import Path

from feast import FileSource, KafkaSource
from feast.data_format import AvroFormat, JsonFormat, ProtoFormat

COLUMNS = (
    "payment_id STRING, card_id STRING, shop_id BIGINT, amount DOUBLE, items BIGINT, "
    "country STRING, online BOOLEAN, paid_at "
)
FORMATS = {
    "json": JsonFormat(schema_json=f"{COLUMNS} STRING"),
    "keyed": JsonFormat(schema_json=f"{COLUMNS} BIGINT"),
    "untimed": JsonFormat(schema_json=COLUMNS.removesuffix(", paid_at ")),
    "avro": AvroFormat(schema_json=Path(__file__).with_name("payment.avsc").read_text()),
    "protobuf": ProtoFormat(class_path="payment_pb2:Payment"),
}
FORMAT = os.environ.get("PAYMENTS_FORMAT", "json")
TAGS = {
    "json": {},
    "keyed": {"streamsvc.key": "card_id", "streamsvc.time_unit": "ms"},
    "untimed": {"streamsvc.time_unit": "kafka"},
}

payments = KafkaSource(
    name="payments",
    topic=os.environ.get("PAYMENTS_TOPIC", "payments"),
    message_format=FORMATS[FORMAT],
    timestamp_field="paid_at",  # ISO-8601 text, if the format has no other way
    watermark_delay_threshold=timedelta(minutes=2),
    tags={
        **TAGS.get(FORMAT, {"streamsvc.framing": "confluent"}),
        "streamsvc.start": os.environ.get("PAYMENTS_START", "earliest"),
    },
    batch_source=FileSource(
        name="payments_archive",
        path=os.environ.get("PAYMENTS_ARCHIVE", "data/payments.parquet"),
        timestamp_field="paid_at",
    ),
)
