"""Stock Faust: `windows` is its hopping table with a changelog, `dict` a plain dict of rings."""

import os
import sys

import faust
import orjson
import ring

MODE = os.environ["MODE"]
app = faust.App(
    os.environ["GROUP"],
    broker=f"kafka://{os.environ['BROKERS']}",
    store="memory://",
    topic_partitions=4,
    topic_replication_factor=1,
    topic_disable_leader=True,
    web_enabled=False,
    consumer_auto_offset_reset="earliest",
    datadir=os.environ["STATE"],
)
payments = app.topic(
    os.environ["INPUT"],
    key_type=bytes,
    value_type=None,
    key_serializer="raw",
    value_serializer="json",
)
features = app.topic(
    os.environ["OUTPUT"],
    key_type=bytes,
    value_type=bytes,
    key_serializer="raw",
    value_serializer="raw",
)

if MODE == "windows":
    table = (
        app.Table("windows", default=lambda: (0, 0.0, float("inf"), float("-inf")), partitions=4)
        .hopping(600.0, 60.0, expires=1200.0)
        .relative_to(lambda event: event.value["ts"] / 1000.0)
    )

    def fold(value, amount):
        count, total, least, greatest = value
        return count + 1, total + amount, min(least, amount), max(greatest, amount)

    @app.agent(payments)
    async def count(stream):
        async for event in stream.events():
            payment = event.value
            windows = table[payment["user"]]
            windows.apply(fold, payment["amount"])  # all ten that the payment is in
            # The oldest window that is open. `.delta()` goes by Kafka's time whatever the table is
            # relative to, and `.current()` is the newest window, of less than a minute.
            oldest = payment["ts"] / 1000.0 - 540.0
            n, total, least, greatest = windows.table._windowed_timestamp(payment["user"], oldest)
            row = {"user": payment["user"], "ts": payment["ts"], "count": n, "sum": total}
            row |= {"mean": total / n, "min": least, "max": greatest}
            await features.send(key=event.key, value=orjson.dumps(row))
else:
    rings = {}

    @app.agent(payments)
    async def count(stream):
        async for event in stream.events():
            payment = event.value
            row = ring.update(rings.setdefault(payment["user"], []), payment)
            await features.send(key=event.key, value=orjson.dumps(row))


if __name__ == "__main__":
    sys.argv = [sys.argv[0], "worker", "-l", "warn", "--without-web"]
    app.main()
