"""Payments as they are published, and the archive of the same events.

PAYMENTS_TOPIC names the topic (default `payments`), so that tests can share a broker.
"""

import os
from datetime import timedelta

from feast import FileSource, KafkaSource
from feast.data_format import JsonFormat

payments = KafkaSource(
    name="payments",
    topic=os.environ.get("PAYMENTS_TOPIC", "payments"),
    message_format=JsonFormat(
        schema_json=(
            "payment_id STRING, card_id STRING, shop_id BIGINT, amount DOUBLE, items BIGINT, "
            "country STRING, online BOOLEAN, paid_at STRING"
        )
    ),
    timestamp_field="paid_at",  # ISO-8601 text
    watermark_delay_threshold=timedelta(minutes=2),
    batch_source=FileSource(
        name="payments_archive", path="data/payments.parquet", timestamp_field="paid_at"
    ),
)
