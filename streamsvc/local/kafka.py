"""Apache Kafka: one process that is broker and controller (KRaft), bound to this machine only."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import uuid
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from streamsvc.errors import UnavailableError
from streamsvc.local.java import find_java
from streamsvc.local.kafka_jars import fetch_jars
from streamsvc.local.ports import HOST
from streamsvc.local.processes import ProcessId
from streamsvc.local.report import Report
from streamsvc.local.service import Launch, Service, elsewhere

__all__ = ["Kafka"]

NODE_ID = 1

# One node: nothing can be replicated, and nobody needs to be waited for.
PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": NODE_ID,
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    # Without this the first member of every group waits 3 s for others.
    "group.initial.rebalance.delay.ms": 0,
    # After a kill the controller takes the old broker for alive for this long (default 9 s).
    "broker.session.timeout.ms": 4_000,
    "broker.heartbeat.interval.ms": 1_000,
    # Lets a test take a worker for dead sooner than in production.
    "group.min.session.timeout.ms": 1_000,
    # As soon is a transaction whose time is over aborted (default 10 s after it).
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000,
    # A misspelt topic is an error, not a new topic.
    "auto.create.topics.enable": "false",
    "delete.topic.enable": "true",
    "num.partitions": 4,
    "message.max.bytes": 10_485_760,
    "replica.fetch.max.bytes": 10_485_760,
    # The default takes 128 MB of the heap for compaction alone.
    "log.cleaner.dedupe.buffer.size": 33_554_432,
}

JVM_FLAGS = (
    "-Xmx1g",
    "-Xms256m",
    # The second compiler takes 12 of the first 30 CPU seconds from everybody else on two cores (p99
    # of a prediction at 1,000 events/s with a fresh broker: 4,800 ms with it, 158 without).
    "-XX:TieredStopAtLevel=1",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    # "Transition from STARTING to STARTED" and the like: the story of a start and a stop.
    "-Dorg.slf4j.simpleLogger.log.kafka.server.BrokerServer=info",
    "-Dorg.slf4j.simpleLogger.log.kafka.server.KafkaRaftServer=info",
)


class Kafka(Service):
    """Apache Kafka in KRaft mode; data under `<directory>/data`."""

    name: ClassVar[str] = "kafka"
    title: ClassVar[str] = "Apache Kafka"
    setting: ClassVar[str] = "kafka_bootstrap_servers"
    ports: ClassVar[Mapping[str, int]] = {"kafka": 9092, "controller": 9093}
    ready_s: ClassVar[float] = 90.0
    stop_s: ClassVar[float] = 20.0

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._jars: list[Path] = []
        self._java = ""

    def prepare(self, report: Report) -> None:
        """Find Java and fetch the jars."""
        self._java = find_java()
        self._jars = fetch_jars(report)

    def launch(self, ports: Mapping[str, int]) -> Launch:
        """Write `server.properties`, format the data directory once, and give the command."""
        self._directory.mkdir(parents=True, exist_ok=True)
        self._write_properties(ports)
        if not (self._data / "meta.properties").exists():
            self._format()
        argv = (
            *(self._java, *JVM_FLAGS, "-cp", self._class_path),
            *("kafka.Kafka", str(self._properties)),
        )
        return Launch(argv, _environment())

    def answers(self, ports: Mapping[str, int], process: ProcessId) -> bool:
        """A metadata request: our cluster, with its one broker registered."""
        if not _listens(ports["kafka"]):
            return False
        from confluent_kafka import KafkaException
        from confluent_kafka.admin import AdminClient

        client = AdminClient(
            {
                "bootstrap.servers": f"{HOST}:{ports['kafka']}",
                "socket.timeout.ms": 1_000,
                "log_level": 0,
            },
        )
        try:
            found = client.list_topics(timeout=1.0)
        except KafkaException:
            return False
        return found.cluster_id == self._cluster_id and len(found.brokers) == 1

    def endpoints(self, ports: Mapping[str, int]) -> dict[str, str]:
        """Where clients start from."""
        return {"kafka_bootstrap_servers": f"{HOST}:{ports['kafka']}"}

    @property
    def _properties(self) -> Path:
        return self._directory / "server.properties"

    @property
    def _data(self) -> Path:
        return self._directory / "data"

    @property
    def _class_path(self) -> str:
        return os.pathsep.join(str(jar) for jar in self._jars)

    @cached_property
    def _cluster_id(self) -> str:
        """Made once and kept beside the data: it tells our broker from a stranger's."""
        path = self._directory / "cluster.id"
        if not path.exists():
            path.write_text(base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("="))
        return path.read_text().strip()

    def _write_properties(self, ports: Mapping[str, int]) -> None:
        client, controller = f"{HOST}:{ports['kafka']}", f"{HOST}:{ports['controller']}"
        lines = {
            **PROPERTIES,
            "log.dirs": self._data,
            "listeners": f"PLAINTEXT://{client},CONTROLLER://{controller}",
            "advertised.listeners": f"PLAINTEXT://{client}",
            "controller.quorum.voters": f"{NODE_ID}@{controller}",
        }
        text = "".join(f"{key}={value}\n" for key, value in lines.items())
        self._properties.write_text(text)

    def _format(self) -> None:
        tool = (
            # A short-lived JVM: the first compiler is enough.
            *(self._java, "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp", self._class_path),
            *("-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "kafka.tools.StorageTool"),
            # With a sign of equality, because one id in 64 begins with a dash.
            *("format", f"--cluster-id={self._cluster_id}", "-c", str(self._properties)),
        )
        done = subprocess.run(tool, check=False, capture_output=True, text=True, env=_environment())
        if done.returncode != 0:
            said = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise UnavailableError(
                f"Kafka cannot format {self._data}: {' '.join(said)} "
                f"{elsewhere('kafka_bootstrap_servers')}"
            )


def _environment() -> dict[str, str]:
    # Options meant for other Java programs of the user must not reach the broker.
    dropped = ("JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS", "JDK_JAVA_OPTIONS", "CLASSPATH")
    return {key: value for key, value in os.environ.items() if key not in dropped}


def _listens(port: int) -> bool:
    # Much cheaper than a client that waits for a broker which has not bound its port yet.
    try:
        socket.create_connection((HOST, port), timeout=0.5).close()
    except OSError:
        return False
    return True
