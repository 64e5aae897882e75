"""The engines, in the order in which they run: those that one would ask about first."""

from __future__ import annotations

import environment
from engine import Engine, Launch, RecordsEngine, Run
from feast_loop_engine import FeastLoop
from streamsvc_engine import StreamsvcEngine
from streamsvc_updates_engine import StreamsvcEach, StreamsvcUpdates

__all__ = ["ENGINES"]

AT_LEAST_ONCE = "at least once"
LOST = "state is lost in a crash"


class KafkaStreams(RecordsEngine):
    """In Java."""

    def launch(self, run: Run) -> Launch:
        path = environment.class_path(self.folder, run.cache)
        quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
        command = ["java", "-Xmx4g", quiet, "-cp", path, "App"]
        return Launch(command, run.environment() | {"MODE": self.mode})


class Bytewax(RecordsEngine):
    """Started by its own runner."""

    def launch(self, run: Run) -> Launch:
        found = super().launch(run)
        python, script = found.command
        return Launch([python, "-m", "bytewax.run", f"{script}:flow"], found.env)


class Flink(RecordsEngine):
    """SQL from Python; the work is done in a JVM."""

    def launch(self, run: Run) -> Launch:
        found = super().launch(run)
        jars = ";".join(f"file://{jar}" for jar in environment.jars(self.folder, run.cache))
        return Launch(found.command, {**found.env, "JARS": jars, "JVM_ARGS": "-Xmx8g"})


ENGINES: tuple[Engine, ...] = (
    StreamsvcEngine(rates=(1_000, 10_000, 50_000)),
    StreamsvcEngine("streamsvc, 15 features, Zipf(1.1) keys", windows=3, zipf=1.1),
    StreamsvcEngine("streamsvc, shuffled", declared=False, rates=(1_000, 10_000)),
    StreamsvcUpdates("streamsvc, rows as records"),
    StreamsvcEach("streamsvc, payments as records"),
    KafkaStreams(
        *("Kafka Streams, ring in memory", "kafka_streams", "ring-memory", "by hand", "grid"),
        *(AT_LEAST_ONCE, 1_000_000, (1_000, 10_000, 50_000)),
    ),
    RecordsEngine(
        *("Quix Streams, keyed state", "quix", "state", "by hand", "grid"),
        *(AT_LEAST_ONCE, 200_000, (1_000, 10_000)),
    ),
    Bytewax(
        *("Bytewax, stateful_map", "bytewax", "map", "by hand", "grid"),
        *(f"none: position and {LOST}", 200_000, (1_000, 10_000)),
    ),
    FeastLoop(
        *("Feast loop, batches of 500", "feast_loop", "batch", "by hand", "grid"),
        *(f"at least once, {LOST}", 12_000, (1_000,)),
    ),
    Flink(
        *("Flink, SQL OVER", "flink", "over", "library", "slide"),
        *("exactly once inside, at least once out", 300_000, (1_000, 10_000)),
    ),
    KafkaStreams(
        *("Kafka Streams, hopping windows", "kafka_streams", "windows", "library", "hop"),
        *(AT_LEAST_ONCE, 100_000, (1_000,)),
    ),
    RecordsEngine(
        *("Faust, dict", "faust", "dict", "by hand", "grid"),
        *(f"at least once, {LOST}", 20_000, (1_000,)),
    ),
    RecordsEngine(
        *("Quix Streams, hopping windows", "quix", "windows", "library", "hop"),
        *(AT_LEAST_ONCE, 20_000, (1_000,)),
    ),
    RecordsEngine(
        *("Faust, windowed table", "faust", "windows", "library", "hop"),
        *(AT_LEAST_ONCE, 4_000),
    ),
    KafkaStreams(
        *("Kafka Streams, ring in RocksDB", "kafka_streams", "ring", "by hand", "grid"),
        *(AT_LEAST_ONCE, 400_000),
    ),
    FeastLoop(
        *("Feast loop, each event", "feast_loop", "event", "by hand", "grid"),
        *(f"at least once, {LOST}", 2_000),
    ),
)
