"""Where events come from: one Kafka topic of payments, and the archive of the same events."""

from datetime import timedelta

from feast import FileSource, KafkaSource, RequestSource
from feast.data_format import JsonFormat
from feast.field import Field
from feast.types import Bool, Float64

payments = KafkaSource(
    name="payments",
    topic="payments",
    message_format=JsonFormat(
        schema_json="payment_id STRING NOT NULL, card_id STRING NOT NULL, shop_id BIGINT NOT NULL, "
        "amount DOUBLE NOT NULL, online BOOLEAN NOT NULL, paid_at BIGINT"
    ),
    timestamp_field="paid_at",
    watermark_delay_threshold=timedelta(seconds=30),
    tags={
        "streamsvc.time_unit": "ms",
        # A promise: producers partition by murmur2 of the card. It spares views of cards a hop
        # through Kafka, and is checked on every record.
        "streamsvc.key": "card_id",
    },
    batch_source=FileSource(
        name="payments_archive", path="data/payments.parquet", timestamp_field="paid_at"
    ),
)

# What an on-demand feature may read of the payment that asks.
request = RequestSource(
    name="request",
    schema=[Field(name="amount", dtype=Float64), Field(name="online", dtype=Bool)],
)
