"""Quix Streams with its defaults: state in RocksDB with a changelog, at least once.

`windows` is its hopping window, of whose ten updates a payment the oldest goes out; `state` a ring
in its keyed state.
"""

import os

import ring
from quixstreams import Application
from quixstreams.dataframe.windows import Count, Max, Mean, Min, Sum

LATENCY = os.environ["LATENCY"] == "1"
app = Application(
    os.environ["BROKERS"],
    consumer_group=os.environ["GROUP"],
    auto_offset_reset="earliest",
    state_dir=os.environ["STATE"],
    loglevel="WARNING",
    consumer_extra_config={"fetch.wait.max.ms": 5} if LATENCY else {},
    producer_extra_config={"linger.ms": 0} if LATENCY else {},
)
payments = app.topic(
    os.environ["INPUT"], timestamp_extractor=lambda value, headers, at, kind: value["ts"]
)
features = app.topic(os.environ["OUTPUT"])
frame = app.dataframe(payments)

if os.environ["MODE"] == "windows":
    frame = (
        frame.hopping_window(600_000, 60_000, grace_ms=0)
        .agg(
            count=Count(),
            sum=Sum("amount"),
            mean=Mean("amount"),
            min=Min("amount"),
            max=Max("amount"),
            ts=Max("ts"),
            user=Max("user"),
        )
        .current()
        .filter(lambda row: row["start"] == row["ts"] // 60_000 * 60_000 - 540_000)
    )
else:

    def count(payment, state):
        buckets = state.get("buckets") or []
        row = ring.update(buckets, payment)
        state.set("buckets", buckets)
        return row

    frame = frame.apply(count, stateful=True)

frame.to_topic(features)
app.run()
