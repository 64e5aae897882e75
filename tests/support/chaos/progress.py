"""How far the log goes, and how far what is readable in the store reaches behind it."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Producer
from support.chaos.records import Record
from support.repo import RunningRepo

from streamsvc.errors import UnavailableError
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers


class Log:
    """Sends records to the repo's topic and knows the offsets that they got."""

    def __init__(self, repo: RunningRepo) -> None:
        self.ends: dict[int, int] = dict.fromkeys(range(repo.admin.partitions(repo.topic)), 0)
        self.sent = 0
        self._topic = repo.topic
        self._producer = Producer(
            {
                "bootstrap.servers": repo.settings.kafka_bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 2,
                "message.max.bytes": 4_000_000,
                "partitioner": "murmur2_random",
                "reconnect.backoff.max.ms": 200,
                "log_level": 0,
            }
        )

    def send(self, records: Iterable[Record]) -> None:
        for key, value, partition in records:
            where = {} if partition is None else {"partition": partition}
            self._producer.produce(self._topic, value, key, on_delivery=self._delivered, **where)
            self.sent += 1
        self._producer.poll(0)

    def flush(self) -> None:
        """Return when the broker has everything."""
        assert self._producer.flush(90) == 0, "the broker does not take records"

    def _delivered(self, error, message) -> None:
        assert error is None, error
        partition = message.partition()
        self.ends[partition] = max(self.ends[partition], message.offset() + 1)


class Applied:
    """Per view and source partition, the offsets below which everything is readable.

    Never goes back: while the store has lost what it promised, the last promise is remembered.
    """

    def __init__(self, repo: RunningRepo) -> None:
        self._repo = repo
        self._client = connect(repo.settings)
        self._groups = int(repo.environment["STREAMSVC_KEY_GROUPS"])
        self._reached: dict[tuple[str, int], int] = {}

    def refresh(self, partitions: Iterable[int]) -> None:
        for view in self._repo.plan.views:
            try:
                found = self._of_view(view, partitions)
            except UnavailableError:
                return  # the store is being killed
            for partition, offset in found.items():
                key = (view.name, partition)
                self._reached[key] = max(self._reached.get(key, 0), offset)

    def _of_view(self, view, partitions: Iterable[int]) -> dict[int, int]:
        topic, partitions = view.source.topic, list(partitions)
        states = range(self._groups) if view.shuffled else partitions
        markers = read_markers(self._client, self._repo.project, view.name, states)
        applied = [{} if m is None else m.applied.get(topic, {}) for m in markers]
        if view.shuffled:
            return {p: min(a.get(p, 0) for a in applied) for p in partitions}
        return {p: a.get(p, 0) for p, a in zip(partitions, applied, strict=True)}

    def total(self) -> int:
        """Grows as long as anything goes on."""
        return sum(self._reached.values())

    def lag(self, ends: dict[int, int]) -> int:
        """Records that some view does not show yet."""
        views = [view.name for view in self._repo.plan.views]
        return sum(
            end - min(self._reached.get((view, p), 0) for view in views) for p, end in ends.items()
        )
