"""Payments as they are published, and the archive of the same events.

PAYMENTS_TOPIC names the topic (default `payments`), so that tests can share a broker.
PAYMENTS_FORMAT is how they are written: `json` (the default), `avro` or `protobuf`, the last two
with a Schema Registry header. PAYMENTS_ARCHIVE is where they are archived.
"""

import os
from datetime import timedelta
from pathlib import Path

from feast import FileSource, KafkaSource
from feast.data_format import AvroFormat, JsonFormat, ProtoFormat

FORMATS = {
    "json": JsonFormat(
        schema_json=(
            "payment_id STRING, card_id STRING, shop_id BIGINT, amount DOUBLE, items BIGINT, "
            "country STRING, online BOOLEAN, paid_at STRING"
        )
    ),
    "avro": AvroFormat(schema_json=Path(__file__).with_name("payment.avsc").read_text()),
    "protobuf": ProtoFormat(class_path="payment_pb2:Payment"),
}
FORMAT = os.environ.get("PAYMENTS_FORMAT", "json")

payments = KafkaSource(
    name="payments",
    topic=os.environ.get("PAYMENTS_TOPIC", "payments"),
    message_format=FORMATS[FORMAT],
    timestamp_field="paid_at",  # ISO-8601 text; a timestamp in the other formats
    watermark_delay_threshold=timedelta(minutes=2),
    tags={} if FORMAT == "json" else {"streamsvc.framing": "confluent"},
    batch_source=FileSource(
        name="payments_archive",
        path=os.environ.get("PAYMENTS_ARCHIVE", "data/payments.parquet"),
        timestamp_field="paid_at",
    ),
)
