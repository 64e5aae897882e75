"""A run: records go in, faults hit, workers come back, and a ledger says what happened."""

from __future__ import annotations

import itertools
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from support.chaos.progress import Applied, Log
from support.chaos.records import Record
from support.chaos.schedule import Fault
from support.chaos.servers import SERVERS, Servers
from support.chaos.workers import Worker, Workers
from support.repo import RunningRepo

BACKLOG = 3_000
"""Records in the log that are not readable yet, beyond which no more are sent."""
STUCK_S = 4.0
"""Without any progress for so long, the oldest fault that lasts is mended."""
PATIENCE_S = 300.0
SCALED = {"features": 3, "scoring": 2}


@dataclass(slots=True)
class Lasting:
    """A fault in effect."""

    mend: Callable[[], None]
    until: int
    """Records sent."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the ledger."""

    fault: Fault
    target: str
    lag: int
    at_s: float


class Run:
    """One run on servers of its own."""

    def __init__(
        self, servers: Servers, repo: RunningRepo, workers: Workers, records: Iterator[Record]
    ) -> None:
        self.ledger: list[Entry] = []
        self.log = Log(repo)
        self._servers = servers
        self._repo = repo
        self._workers = workers
        self._records = records
        self._applied = Applied(repo)
        self._lasting: list[Lasting] = []
        self._begin = time.monotonic()
        self._moved = self._begin
        self._total = 0

    # --- what is done ----------------------------------------------------------------------

    def start(self) -> None:
        """Return when everything is up: the first records are readable and answered."""
        self._workers.tend()
        self.log.send(itertools.islice(self._records, 200))
        self.settle()
        self._begin = time.monotonic()

    def inject(self, schedule: Sequence[Fault]) -> None:
        """One fault after the other, each into lag."""
        for number, fault in enumerate(schedule, 1):
            self.advance(fault.gap)
            if fault.working and fault.variant in self._workers.wanted:
                self.wait(lambda kind=fault.variant: self._workers.working(kind), "worker to hit")
            lag = self._make_lag(fault.burst)
            target = self._hit(fault)
            entry = Entry(fault, target, lag, time.monotonic() - self._begin)
            self.ledger.append(entry)
            print(
                f"{number:4}  {entry.at_s:7.1f} s  {fault.kind:<11} {target:<22} "
                f"lag {lag:>6,} of {self.log.sent:>8,}",
                flush=True,
            )

    def advance(self, n: int) -> None:
        """Send `n` records, no faster than they become readable."""
        end = self.log.sent + n
        while self.log.sent < end:
            self.wait(lambda: self._lag() < BACKLOG, "room for more records")
            self.log.send(itertools.islice(self._records, min(100, end - self.log.sent)))
            self.log.flush()
            self._step()

    def settle(self) -> None:
        """Mend what still lasts, and wait until everything is readable and answered."""
        for lasting in self._lasting:
            lasting.mend()
        self._lasting.clear()
        self.log.flush()
        self.wait(self._workers.complete, "workers")
        self.wait(lambda: self._lag() == 0, "end of the lag")
        for group in self._groups_of("scoring"):
            self.wait(lambda group=group: self._unanswered(group) == 0, "answers to all requests")

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            self._step()
            assert time.monotonic() < deadline, (
                f"no {what} in {PATIENCE_S:.0f} s; lag {self._lag()}, {self._where()}"
            )
            time.sleep(0.02)

    def summary(self) -> str:
        """The ledger in a few lines."""
        kinds = sorted(Counter(e.fault.kind for e in self.ledger).items())
        lags = sorted(e.lag for e in self.ledger)
        return (
            f"{len(self.ledger)} faults: {', '.join(f'{kind} {n}' for kind, n in kinds)}\n"
            f"lag when they hit: {lags[0]:,} to {lags[-1]:,}, median {lags[len(lags) // 2]:,}\n"
            f"workers that ended because a server was away: {dict(self._workers.restarts)}\n"
            f"{self.log.sent:,} records in {time.monotonic() - self._begin:.0f} s"
        )

    # --- how -------------------------------------------------------------------------------

    def _lag(self) -> int:
        return self._applied.lag(self.log.ends)

    def _unanswered(self, group: str) -> int:
        """Requests that a scoring group has not acknowledged."""
        found = self._committed(group)
        return sum(end - found[p] for p, end in self.log.ends.items())

    def _committed(self, group: str) -> dict[int, int]:
        """Partition -> the offset that a group goes on at."""
        consumer = Consumer(
            {"bootstrap.servers": self._repo.settings.kafka_bootstrap_servers, "group.id": group}
        )
        places = [TopicPartition(self._repo.topic, p) for p in self.log.ends]
        found = {tp.partition: max(tp.offset, 0) for tp in consumer.committed(places, timeout=30)}
        consumer.close()
        return found

    def _where(self) -> str:
        return f"{[(w.name, w.paused, w.told) for w in self._workers._all]}"

    def _step(self) -> None:
        self._workers.tend()
        self._applied.refresh(self.log.ends)
        now = time.monotonic()
        if (total := self._applied.total()) > self._total:
            self._total, self._moved = total, now
        due = [e for e in self._lasting if e.until <= self.log.sent]
        if now - self._moved > STUCK_S and self._lasting:
            due = self._lasting[:1]
            self._moved = now
        for each in due:
            each.mend()
            self._lasting.remove(each)

    def _make_lag(self, burst: int) -> int:
        for _ in range(50):
            self.log.send(itertools.islice(self._records, burst))
            self.log.flush()
            self._step()
            if (lag := self._lag()) > 0:
                return lag
        raise AssertionError("workers are faster than the producer")

    def _hit(self, fault: Fault) -> str:
        return getattr(self, f"_{fault.kind}")(fault)

    def _kill(self, fault: Fault) -> str:
        return self._end(fault, signal.SIGKILL)

    def _restart(self, fault: Fault) -> str:
        return self._end(fault, signal.SIGTERM)

    def _end(self, fault: Fault, how: signal.Signals) -> str:
        worker = self._choose(fault)
        self._workers.end(worker, how)
        return worker.name

    def _choose(self, fault: Fault) -> Worker:
        self._workers.tend()
        found = self._workers.working(fault.variant) or self._workers.of(fault.variant)
        return found[fault.rank % len(found)]

    def _pause(self, fault: Fault) -> str:
        worker = self._choose(fault)
        self._workers.pause(worker)
        self._last(fault, lambda: self._workers.wake(worker))
        return worker.name

    def _scale(self, fault: Fault) -> str:
        kind = fault.variant
        wanted = 1 if self._workers.wanted[kind] > 1 else SCALED[kind]
        self._workers.scale(kind, wanted)
        return f"{kind} to {wanted}"

    def _network(self, fault: Fault) -> str:
        link, how = fault.variant.split()
        self._last(fault, self._servers.links.disturb(link, how))
        return fault.variant

    def _last(self, fault: Fault, mend: Callable[[], None]) -> None:
        until = self.log.sent + fault.lasts if fault.lasts else 1 << 60
        self._lasting.append(Lasting(mend, until))

    def _store_kill(self, fault: Fault) -> str:
        return self._bounce(SERVERS["store"], signal.SIGKILL)

    def _store_flush(self, fault: Fault) -> str:
        self._servers.flush_store()
        return SERVERS["store"]

    def _broker(self, fault: Fault) -> str:
        how = signal.SIGKILL if fault.variant == "kill" else signal.SIGTERM
        return self._bounce(SERVERS["kafka"], how)

    def _model_kill(self, fault: Fault) -> str:
        return self._bounce(SERVERS["model"], signal.SIGKILL)

    def _bounce(self, server: str, how: signal.Signals) -> str:
        self._servers.stop(server, how)
        self._servers.start(server)
        self._moved = time.monotonic()
        return f"{server} {how.name}"

    def _rewind(self, fault: Fault) -> str:
        """Offsets of a group reset by hand, which Kafka allows while nobody is in it.

        Not those of an exactly-once route: that asks for its requests to be answered again.
        """
        kind = fault.variant
        wanted, self._workers.wanted[kind] = self._workers.wanted[kind], 0
        for worker in self._workers.of(kind):
            self._workers.end(worker, signal.SIGTERM)
        self.wait(lambda: self._workers.gone(kind), "end of all workers")
        groups = self._groups_of(kind, once=False)
        for group in groups:
            self.wait(lambda group=group: self._reset(group, fault.burst), "offsets reset")
        self._workers.wanted[kind] = wanted
        return f"{len(groups)} × {kind}"

    def _groups_of(self, kind: str, *, once: bool = True) -> list[str]:
        """Consumer groups of a kind of worker; `once`: those of exactly-once routes, too."""
        group = f"streamsvc.{self._repo.project}.{kind}"
        if kind == "features":
            return [group]
        routes = {s.name: s.route for s in self._repo.plan.services if s.route is not None}
        return [
            f"{group}.{name}"
            for name, route in routes.items()
            if once or route.delivery == "at_least_once"
        ]

    def _reset(self, group: str, by: int) -> bool:
        """Every partition of the topic `by` records back; False while a killed member counts."""
        found = self._committed(group)
        places = [TopicPartition(self._repo.topic, p, max(0, at - by)) for p, at in found.items()]
        client = AdminClient({"bootstrap.servers": self._repo.settings.kafka_bootstrap_servers})
        changed = client.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, places)])
        try:
            return all(tp.error is None for tp in changed[group].result(30).topic_partitions)
        except KafkaException:
            return False
