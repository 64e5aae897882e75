"""The job as Feast definitions. The topic, the windows and the promise of the key come from the
environment, so that one repo serves all runs."""

import json
import os
from datetime import timedelta

from feast import Aggregation, Entity, Field, FileSource, KafkaSource, StreamFeatureView
from feast.data_format import JsonFormat
from feast.types import Float64, Int64, String
from feast.value_type import ValueType

MINUTE = timedelta(minutes=1)
WINDOWS = ((10 * MINUTE, MINUTE), (60 * MINUTE, 5 * MINUTE), (24 * 60 * MINUTE, 60 * MINUTE))

user = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING)
declared = {"streamsvc.key": "user"} if os.environ["DECLARED"] == "1" else {}
payments = KafkaSource(
    name="payments",
    topic=os.environ["INPUT"],
    message_format=JsonFormat(schema_json="user STRING NOT NULL, amount DOUBLE, ts BIGINT"),
    timestamp_field="ts",
    watermark_delay_threshold=MINUTE,
    tags={"streamsvc.time_unit": "ms", **declared},
    batch_source=FileSource(name="archive", path="archive.parquet", timestamp_field="ts"),
)
aggregations = [
    Aggregation("amount", function, window, hop, name=f"{function}_{window // MINUTE}m")
    for window, hop in WINDOWS[: int(os.environ["WINDOWS"])]
    for function in ("count", "sum", "mean", "min", "max")
]
spend = StreamFeatureView(
    name="spend",
    entities=[user],
    source=payments,
    timestamp_field="ts",
    aggregations=aggregations,
    tags=json.loads(os.environ["VIEW_TAGS"]),
    schema=[
        Field(name="user", dtype=String),
        *(
            Field(name=a.name, dtype=Int64 if a.function == "count" else Float64)
            for a in aggregations
        ),
    ],
)
