"""The archive is what was on the topic, whatever happens to those who write it."""

from __future__ import annotations

import signal
import threading

import pandas as pd
from confluent_kafka import Consumer, TopicPartition
from support.archives import read_archive
from support.payments import (
    MINUTE,
    START_MS,
    VIEWS,
    by_key,
    differs,
    expected,
    generate,
    read_truth,
)
from support.repo import archived_payments, environment_of

from streamsvc.archive.names import chain, logs_of
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.errors import ConfigurationError

BATCH = 4_000
FIELDS = ("payment_id", "card_id", "shop_id", "amount", "items", "country", "online")


def rows_of(source) -> dict[tuple[int, int], tuple]:
    """(partition, offset) -> event time and fields, of the events that count; none twice."""
    archive = read_archive(source, FIELDS, 2**62)
    columns = [archive.columns[name].to_pylist() for name in FIELDS]
    at, partition, offset = (
        each.tolist() for each in (archive.event_time, archive.partition, archive.offset)
    )
    places = list(zip(partition, offset, strict=True))
    assert len(set(places)) == len(places)
    return {places[i]: (at[i], *(column[i] for column in columns)) for i in archive.rows.tolist()}


def rows_of_truth(truth) -> dict[tuple[int, int], tuple]:
    return {e["order"][1:]: (e["at"], *(e.get(name) for name in FIELDS)) for e in truth.events}


class Reader(threading.Thread):
    """Reads the archive again and again: it only grows, and never says anything else."""

    def __init__(self, source) -> None:
        super().__init__()
        self.source, self.stop, self.reads, self.error = source, threading.Event(), 0, None

    def run(self) -> None:
        known: dict[tuple[int, int], tuple] = {}
        try:
            while not self.stop.wait(0.2):
                try:
                    found = rows_of(self.source)
                except ConfigurationError:
                    assert not known, "the archive has gone"
                    continue  # nothing is there yet
                assert known.items() <= found.items()
                known = found
                self.reads += 1
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.error = error

    def __exit__(self, *exc: object) -> None:
        self.stop.set()
        self.join(60)
        assert self.error is None, self.error
        assert self.reads > 3

    def __enter__(self) -> Reader:
        self.start()
        return self


def committed(repo) -> dict[int, int]:
    consumer = Consumer(
        {
            "bootstrap.servers": repo.settings.kafka_bootstrap_servers,
            "group.id": f"streamsvc.{repo.project}.archive",
        }
    )
    partitions = [TopicPartition(repo.topic, p) for p in repo.admin.end_offsets(repo.topic)]
    found = consumer.committed(partitions, timeout=30)
    consumer.close()
    return {tp.partition: tp.offset for tp in found}


def test_the_archive_equals_the_topic(stack, tmp_path):
    """Kills in mid-file, writers that join and leave, one that is paused for longer than its
    session, small files merged, all while it is being read."""
    with archived_payments(stack, tmp_path) as repo:
        repo.create_topic(4)
        repo.apply()
        path = repo.path / "data/archive"
        (source,) = repo.plan.sources
        made = [generate(BATCH, seed=i, start_ms=START_MS + i * BATCH * 400) for i in range(6)]
        with Reader(source):
            repo.start_worker("a", "archive")
            repo.produce(made[0].records)
            repo.wait_until_archived()
            repo.produce(made[1].records)
            repo.stop_worker("a", signal.SIGKILL)  # with what it has gathered of these
            repo.start_worker("b", "archive")
            repo.wait_until_archived()
            repo.start_worker("c", "archive")  # partitions move while records come
            for part in range(0, BATCH, 500):
                repo.produce(made[2].records[part : part + 500])
            repo.workers["b"].send_signal(signal.SIGSTOP)
            repo.produce(made[3].records)
            repo.wait_until_archived()
            repo.workers["b"].send_signal(signal.SIGCONT)
            repo.produce(made[4].records)
            repo.wait_until_archived()
            repo.grow_topic(6)
            repo.produce(made[5].records)
            assert repo.stop_worker("c") == 0
            repo.wait_until_archived()

        truth = read_truth(repo.settings.kafka_bootstrap_servers, repo.topic)
        assert rows_of(source) == rows_of_truth(truth)
        assert truth.refused > sum(each.malformed for each in made), "some came late"
        files = ArchiveStorage(str(path)).files()
        counting = sum(len(chain(of_log)) for of_log in logs_of(files).values())
        assert counting < len(files), "some were merged"
        repo.assert_workers_alive()
        assert repo.stop_worker("b") == 0
        assert committed(repo) == truth.ends

        assert_training_reads_it(repo, truth)


def assert_training_reads_it(repo, truth) -> None:
    """`get_historical_features` on the archive, a few minutes after the last event."""
    instant = max(e["at"] for e in truth.events) + 5 * MINUTE
    for view in ("card_spend", "shop_sales"):
        groups = by_key(truth, view)
        keys = sorted(groups)[::7]
        name = "card_id" if view == "card_spend" else "shop_id"
        rows = pd.DataFrame(
            {
                name: [k[0] for k in keys],
                "event_timestamp": pd.to_datetime(instant, unit="ms", utc=True),
            }
        )
        with environment_of(repo.environment):
            job = repo.store.get_historical_features(rows, [f"{view}:{f[0]}" for f in VIEWS[view]])
            found = job.to_arrow().to_pylist()
        for key, row in zip(keys, found, strict=True):
            for feature, value in expected(VIEWS[view], groups[key], instant).items():
                function = next(f[2] for f in VIEWS[view] if f[0] == feature)
                assert not differs(row[feature], value, function), (view, key, feature)
