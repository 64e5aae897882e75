"""streamsvc with a topic of updates: each row that it writes to the store is a JSON record, too, or
each payment is one, with the features right after it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np
from confluent_kafka import Consumer, TopicPartition
from engine import Launch, Run, read_to_end
from job import FUNCTIONS, PARTITIONS, Payments
from streamsvc_engine import StreamsvcEngine

from streamsvc.columns import numeric
from streamsvc.transport.admin import TopicSpec
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["StreamsvcEach", "StreamsvcUpdates"]


@dataclass(frozen=True)
class StreamsvcUpdates(StreamsvcEngine):
    """A payment counts when the record that contains it is in the topic."""

    form: ClassVar[str] = "rows"
    per: ClassVar[str] = "row"
    checked_every: ClassVar[int] = 20
    """Of one user in so many all records are compared."""

    def prepare(self, run: Run) -> Launch:
        run.admin.ensure([TopicSpec(run.output, PARTITIONS)])
        return super().prepare(run)

    def tags(self, run: Run) -> Mapping[str, str]:
        return {"streamsvc.updates": run.output, "streamsvc.updates_per": self.per}

    def done(self, run: Run) -> int:
        """By the last record of each partition, which says what it contains."""
        consumer = Consumer(librdkafka_config(run.settings) | {"group.id": run.output})
        ends = run.admin.end_offsets(run.output)
        left = {p: end for p, end in ends.items() if end}
        consumer.assign([TopicPartition(run.output, p, end - 1) for p, end in left.items()])
        applied: dict[int, int] = {}
        while len(applied) < len(left):
            for message in consumer.consume(100, 1.0):
                value = msgspec.json.decode(message.value())
                applied.setdefault(message.partition(), value["applied"])
        consumer.close()
        return sum(applied.values())

    def verify(self, run: Run, payments: Payments) -> str:
        """Records of some users at every instant, the last ones of all, and the store."""
        stored = super().verify(run, payments)
        sources, records, last = [], 0, np.full(payments.keys, -1)
        users, told = [], []
        for message in read_to_end(run.settings, run.output):
            update = msgspec.json.decode(message.value())
            user = int(update["entity"]["user"][1:])
            assert update["as_of_ms"] >= last[user], f"records of u{user} are out of order"
            last[user] = update["as_of_ms"]
            records += 1
            if (source := update.get("source")) is not None:
                sources.append(source["partition"] << 44 | source["offset"])
            if user % self.checked_every == 0:
                users.append(user)
                told.append(update)
        everybody = np.unique(payments.users)
        self.check_sources(payments, np.array(sources, np.int64))
        rows = self.rows(run, run.store, everybody)
        assert np.array_equal(last[everybody], rows.as_of), "a row has no record, or an older one"
        at = np.array([update["as_of_ms"] for update in told])
        checked = self.check(payments, np.array(users), at, [self._columns(told)])
        return f"{records:,} records, {checked:,} of their values, and {stored}"

    def check_sources(self, payments: Payments, sources: np.ndarray) -> None:
        """Which payments have records of their own, as partition * 2^44 + offset."""
        assert not len(sources)

    def _columns(self, told: list[dict[str, Any]]) -> dict[str, Any]:
        names = [f"{function}_10m" for function in FUNCTIONS]
        return {name: numeric([each["features"][name] for each in told]) for name in names}


@dataclass(frozen=True)
class StreamsvcEach(StreamsvcUpdates):
    """A record of each payment, and beside these of what passing time has changed."""

    form: ClassVar[str] = "events"
    per: ClassVar[str] = "event"
    checked_every: ClassVar[int] = 100

    def check_sources(self, payments: Payments, sources: np.ndarray) -> None:
        assert len(sources) == len(payments), f"{len(sources):,} records of {len(payments):,}"
        assert len(np.unique(sources)) == len(payments), "a payment has two records"
