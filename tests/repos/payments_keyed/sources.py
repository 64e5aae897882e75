"""Payments whose producer promises to partition by card, which spares card views the shuffle.

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
            "payment_id STRING, card_id STRING, shop_id BIGINT, amount DOUBLE, country STRING, "
            "paid_at BIGINT"
        )
    ),
    timestamp_field="paid_at",
    tags={"streamsvc.key": "card_id", "streamsvc.time_unit": "ms"},
    watermark_delay_threshold=timedelta(minutes=2),
    batch_source=FileSource(
        name="payments_archive", path="data/payments.parquet", timestamp_field="paid_at"
    ),
)
