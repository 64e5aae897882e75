"""A Feast repo of tests/repos, applied and running: what a user does, from a test."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from click.testing import Result
from confluent_kafka import Consumer, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions
from support.forked import Command
from typer.testing import CliRunner

from streamsvc.archive.names import chain, logs_of
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.demo import feast_repo
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers
from streamsvc.transport.admin import Admin, TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config

REPOS = Path(__file__).parents[1] / "repos"
PATIENCE_S = 300
"""How long to wait for what must come. No test is about it: a loaded machine takes minutes."""


class RunningRepo:
    """A context manager: leaves no process behind, whatever happens inside."""

    def __init__(
        self, stack, directory: Path, name: str, *, template: Path | None = None, **environment: str
    ) -> None:
        """`template` is the repo's directory, REPOS / name by default."""
        self.stack = stack
        self.topic = stack.unique("payments")
        self.project = stack.unique("p").replace("-", "_")
        self.path = directory / name
        made_by_running = shutil.ignore_patterns("data", ".streamsvc", "__pycache__")
        shutil.copytree(template or REPOS / name, self.path, ignore=made_by_running)
        settings = stack.settings
        self.environment = {
            **os.environ,
            "PAYMENTS_TOPIC": self.topic,
            "PAYMENTS_PROJECT": self.project,
            "STREAMSVC_KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
            "STREAMSVC_REDIS_URL": settings.redis_url.get_secret_value(),
            "STREAMSVC_KEY_GROUPS": "6",
            "STREAMSVC_COMMIT_INTERVAL_MS": "200",
            # Whoever takes over from a worker that was killed waits for so long.
            "STREAMSVC_SESSION_TIMEOUT_MS": "6000",
            "STREAMSVC_HEARTBEAT_INTERVAL_MS": "500",
            "STREAMSVC_LOG_FORMAT": "console",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self.workers: dict[str, Command] = {}
        self.settings = settings

    def __enter__(self) -> RunningRepo:
        return self

    def __exit__(self, *exc: object) -> None:
        stuck = []
        for name in list(self.workers):
            try:
                self.stop_worker(name)
            except AssertionError as error:
                stuck.append(error)
        # What went wrong before says more than a worker that then would not stop.
        if stuck and exc[0] is None:
            raise stuck[0]

    @property
    def topics(self) -> tuple[str, ...]:
        """Event topics of the views."""
        return (self.topic,)

    # --- what a user does ------------------------------------------------------------------

    def run(self, *command: str, timeout_s: float = PATIENCE_S) -> str:
        done = subprocess.run(
            command,
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, f"{command} failed:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def streamsvc(self, *arguments: str, code: int = 0) -> str:
        """What `streamsvc …` prints, on stderr if it has to fail with another `code` than 0."""
        done = self.invoke(*arguments, code=code)
        return done.stderr if code else done.stdout

    def invoke(self, *arguments: str, code: int = 0) -> Result:
        """`streamsvc …` in this process, where Feast is imported already."""
        from streamsvc.cli.main import app

        with environment_of(self.environment), contextlib.chdir(self.path):
            done = CliRunner().invoke(app, arguments)
        assert done.exit_code == code, f"{arguments}: {done.output}\n{done.exception!r}"
        return done

    def apply(self) -> None:
        """`feast apply`, in this process."""
        (self.path / "data").mkdir(exist_ok=True)
        with environment_of(self.environment):
            feast_repo.apply(self.path)
        self.__dict__.pop("plan", None)

    def start_worker(self, name: str, kind: str = "features", **environment: str) -> Command:
        self.workers[name] = Command(
            ["worker", kind],
            self.path,
            {**self.environment, **environment},
            self.path / f"{name}.log",
        )
        return self.workers[name]

    def log_of(self, name: str) -> str:
        return (self.path / f"{name}.log").read_text()

    def stop_worker(self, name: str, how: signal.Signals = signal.SIGTERM) -> int:
        process = self.workers.pop(name)
        process.send_signal(signal.SIGCONT)
        process.send_signal(how)
        try:
            return process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
            raise AssertionError(f"{name} did not stop:\n{self.log_of(name)[-4000:]}") from None

    def assert_workers_alive(self) -> None:
        for name, process in self.workers.items():
            assert process.poll() is None, f"{name} died:\n{self.log_of(name)[-6000:]}"

    def wait_until(self, condition: Callable[[], bool], timeout_s: float = PATIENCE_S) -> None:
        """Until a condition holds. Fails if a worker ends, or after the longest of waits."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            self.assert_workers_alive()
            if time.monotonic() > deadline:
                logs = "\n".join(self.log_of(name)[-3000:] for name in self.workers)
                raise AssertionError(f"not so after {timeout_s} s\n{logs}")
            time.sleep(0.05)

    # --- Kafka -----------------------------------------------------------------------------

    def records_of(self, topic: str) -> int:
        """How many records a topic has had; 0 if nobody has made it yet."""
        return sum(self.admin.end_offsets(topic).values()) if self.admin.exists(topic) else 0

    def wait_for_records(self, topic: str, n: int, timeout_s: float = PATIENCE_S) -> None:
        """Until a topic has had so many."""
        self.wait_until(lambda: self.records_of(topic) >= n, timeout_s)

    @cached_property
    def admin(self) -> Admin:
        return Admin(self.settings)

    def create_topic(self, partitions: int) -> None:
        self.admin.ensure([TopicSpec(self.topic, partitions)])

    def grow_topic(self, partitions: int) -> None:
        client = AdminClient(librdkafka_config(self.settings))
        client.create_partitions([NewPartitions(self.topic, partitions)])[self.topic].result(30)
        deadline = time.monotonic() + PATIENCE_S
        while self.admin.partitions(self.topic) != partitions:
            assert time.monotonic() < deadline

    def produce(
        self, records, partition: int | None = None, partitioner: str = "consistent_random"
    ) -> None:
        """Into one partition if it is given. The default partitioner is the client library's.

        A record is its key and value, and perhaps its Kafka timestamp.
        """
        producer = self._producer(partitioner)
        where = {} if partition is None else {"partition": partition}
        for key, value, *written in records:
            when = {"timestamp": written[0]} if written else {}
            while True:
                try:
                    producer.produce(self.topic, value, key, **where, **when)
                    break
                except BufferError:
                    producer.poll(0.1)
        assert producer.flush(60) == 0

    def wait_until_archived(self) -> None:
        """Until PAYMENTS_ARCHIVE contains every record that the topic holds now."""
        ends = {p: end for p, end in self.admin.end_offsets(self.topic).items() if end}
        storage = ArchiveStorage(str(self.path / self.environment["PAYMENTS_ARCHIVE"]))

        def archived() -> bool:
            logs = logs_of(storage.files())
            return {log.partition: chain(files)[-1].next for log, files in logs.items()} == ends

        self.wait_until(archived)

    def _producer(self, partitioner: str = "consistent_random") -> Producer:
        # A new one each time, so that it knows of partitions that were added.
        return Producer(
            {
                **librdkafka_config(self.settings),
                "linger.ms": 5,
                "message.max.bytes": 4_000_000,
                "partitioner": partitioner,
            }
        )

    def send_clocks(self, time_ms: int) -> None:
        headers = [("streamsvc-clock", str(time_ms).encode())]
        producer = self._producer()
        for topic in self.topics:
            for partition in range(self.admin.partitions(topic)):
                producer.produce(topic, None, None, partition, headers=headers)
        assert producer.flush(30) == 0

    def dead_letter_reasons(self) -> Counter:
        """Reasons of all dead letters, each source record once: delivery is at least once."""
        return Counter(self.dead_letters().values())

    def dead_letters(self) -> dict[tuple[int, int], str]:
        """Partition and offset of every record that was refused, and why."""
        dead = f"{self.topic}.dead"
        ends = self.admin.end_offsets(dead)
        consumer = Consumer(
            {
                **librdkafka_config(self.settings),
                "group.id": "dead",
                "fetch.message.max.bytes": 20_000_000,
                "enable.partition.eof": True,
            }
        )
        consumer.assign([TopicPartition(dead, p, 0) for p in ends])
        left, reasons = set(ends), {}
        while left:
            for message in consumer.consume(1_000, timeout=0.2):
                if message.error() is not None:
                    assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                    left.discard(message.partition())
                    continue
                headers = dict(message.headers())
                if "streamsvc-reason" not in headers:
                    continue  # a note that one was sent again
                source = headers["streamsvc-source"].decode().split("/")
                place = int(source[-2]), int(source[-1])
                reasons[place] = headers["streamsvc-reason"].decode()
        consumer.close()
        return reasons

    # --- the online store ------------------------------------------------------------------

    @cached_property
    def plan(self):
        from streamsvc.definitions.registry import load_plan

        with environment_of(self.environment):
            return load_plan(self.path)

    @cached_property
    def store(self):
        from feast import FeatureStore

        with environment_of(self.environment):
            return FeatureStore(repo_path=str(self.path))

    def wait_until_applied(self, timeout_s: float = PATIENCE_S) -> None:
        """Until every view's rows contain every record that the topic holds now."""
        ends = {topic: self.admin.end_offsets(topic) for topic in self.topics}
        client = connect(self.settings, failover_s=30)
        groups = int(self.environment["STREAMSVC_KEY_GROUPS"])
        deadline = time.monotonic() + timeout_s
        lag: dict[str, object] = {}
        while time.monotonic() < deadline:
            lag = {}
            for view in self.plan.views:
                topic = view.source.topic
                for group in range(groups) if view.shuffled else ends[topic]:
                    marker = read_markers(client, self.project, view.name, [group])[0]
                    wanted = ends[topic] if view.shuffled else {group: ends[topic][group]}
                    got = {} if marker is None else marker.applied.get(topic, {})
                    if any(got.get(p, 0) < end for p, end in wanted.items()):
                        lag[f"{view.name}/{group}"] = got
            if not lag:
                return
            self.assert_workers_alive()
            time.sleep(0.05)
        logs = "\n".join(self.log_of(n)[-3000:] for n in self.workers)
        raise AssertionError(f"not applied after {timeout_s} s: {lag} of {ends}\n{logs}")


def archived_payments(stack, directory: Path, **environment: str) -> RunningRepo:
    """The payments repo with an archive, which a worker writes as soon as there is something."""
    archive = {"PAYMENTS_ARCHIVE": "data/archive", "STREAMSVC_ARCHIVE_INTERVAL_S": "0.3"}
    return RunningRepo(stack, directory, "payments", **archive, **environment)


class environment_of:  # noqa: N801 - reads as a statement
    """Feast expands ${…} in feature_store.yaml from this process's environment."""

    def __init__(self, values: dict[str, str]) -> None:
        self.values = values
        self.before = dict(os.environ)

    def __enter__(self) -> None:
        os.environ.update(self.values)

    def __exit__(self, *exc: object) -> None:
        os.environ.clear()
        os.environ.update(self.before)
