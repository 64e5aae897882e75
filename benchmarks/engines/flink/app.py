"""Apache Flink: SQL's OVER, state on the heap, a checkpoint every ten seconds, at least once.

A row comes out once the watermark of every partition has passed it: the last ones never do.
"""

import os

from pyflink.table import EnvironmentSettings, TableEnvironment

LATENCY = os.environ["LATENCY"] == "1"
table = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
config = table.get_config()
for name, value in {
    "pipeline.jars": os.environ["JARS"],
    "parallelism.default": "1",
    "execution.checkpointing.interval": "10s",
    "execution.checkpointing.dir": f"file://{os.environ['STATE']}",
    "state.backend.type": "hashmap",
    "table.local-time-zone": "UTC",
    **(
        {
            "execution.buffer-timeout.interval": "1 ms",
            "pipeline.auto-watermark-interval": "1 ms",
        }
        if LATENCY
        else {}
    ),
}.items():
    config.set(name, value)

SOON_IN = (
    ", 'scan.watermark.emit.strategy' = 'on-event', 'properties.fetch.max.wait.ms' = '5'"
    if LATENCY
    else ""
)
SOON_OUT = ", 'properties.linger.ms' = '0'" if LATENCY else ""

table.execute_sql(f"""
    CREATE TABLE payments (
        `user` STRING, amount DOUBLE, ts BIGINT,
        paid AS TO_TIMESTAMP_LTZ(ts, 3), WATERMARK FOR paid AS paid
    ) WITH (
        'connector' = 'kafka', 'topic' = '{os.environ["INPUT"]}',
        'properties.bootstrap.servers' = '{os.environ["BROKERS"]}',
        'properties.group.id' = '{os.environ["GROUP"]}',
        'scan.startup.mode' = 'earliest-offset', 'format' = 'json'{SOON_IN}
    )""")
table.execute_sql(f"""
    CREATE TABLE features (
        `user` STRING, ts BIGINT,
        `count` BIGINT, `sum` DOUBLE, `mean` DOUBLE, `min` DOUBLE, `max` DOUBLE
    ) WITH (
        'connector' = 'kafka', 'topic' = '{os.environ["OUTPUT"]}',
        'properties.bootstrap.servers' = '{os.environ["BROKERS"]}',
        'key.format' = 'raw', 'key.fields' = 'user', 'value.format' = 'json',
        'sink.delivery-guarantee' = 'at-least-once'{SOON_OUT}
    )""")
table.execute_sql("""
    INSERT INTO features
    SELECT `user`, ts,
        COUNT(amount) OVER w, SUM(amount) OVER w, AVG(amount) OVER w,
        MIN(amount) OVER w, MAX(amount) OVER w
    FROM payments WINDOW w AS (
        PARTITION BY `user` ORDER BY paid
        RANGE BETWEEN INTERVAL '10' MINUTE PRECEDING AND CURRENT ROW
    )""").wait()
