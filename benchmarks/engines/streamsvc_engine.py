"""streamsvc as its users run it: definitions that were applied, and `streamsvc worker features`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import oracle
from engine import Engine, Launch, Run
from feast_repo import applied
from job import FUNCTIONS, PARTITIONS, Payments

from streamsvc.columns import Columns, NumericColumn, concat, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.store.client import Client
from streamsvc.store.markers import read_markers
from streamsvc.store.reader import RowReader
from streamsvc.store.row import RowLayout, Rows
from streamsvc.store.sweep import delete_project

__all__ = ["StreamsvcEngine"]

MINUTE = 60_000
WINDOWS = {10: 1, 60: 5, 1_440: 60}
"""Minutes of each window, and of its hop; `streamsvc_worker/definitions.py` has the same."""


@dataclass(frozen=True)
class StreamsvcEngine(Engine):
    """State and progress are committed to Kafka every second, rows lie in the online store."""

    name: str = "streamsvc"
    folder: str = "streamsvc_worker"
    mode: str = "features"
    window: str = "library"
    meaning: str = "grid"
    guarantee: str = "exactly once"
    events: int = 4_000_000
    windows: int = 1
    declared: bool = True
    """Whether the topic promises its key; else rows go through the shuffle."""
    form: ClassVar[str] = "store"

    def prepare(self, run: Run) -> Launch:
        env = {
            **run.environment(),
            "WINDOWS": str(self.windows),
            "DECLARED": str(int(self.declared)),
            "VIEW_TAGS": json.dumps(self.tags(run)),
            "STREAMSVC_KAFKA_BOOTSTRAP_SERVERS": run.settings.kafka_bootstrap_servers,
            "STREAMSVC_REDIS_URL": run.settings.redis_url.get_secret_value(),
            "STREAMSVC_TOPIC_PREFIX": run.tag,
        }
        repo = run.work / "repo"
        applied(self.folder, repo, env)
        command = [sys.executable, "-m", "streamsvc", "-c", str(repo), "worker", self.mode]
        return Launch(command, env)

    def tags(self, run: Run) -> Mapping[str, str]:
        """Of the view."""
        return {}

    def applied(self, run: Run, client: Client) -> np.ndarray:
        """Up to which offset of each partition the rows in the store are; shape (PARTITIONS,)."""
        project = run.environment()["BENCHMARK"]
        groups = PARTITIONS if self.declared else run.settings.key_groups
        markers = read_markers(client, project, "spend", range(groups))
        found = np.full(PARTITIONS, -1)
        for marker in markers:
            positions = marker.applied.get(run.topic, {}) if marker else {}
            for p, offset in positions.items():
                # Behind the shuffle a payment is in the rows once every group has come so far.
                found[p] = offset if found[p] < 0 else min(found[p], offset)
        if not self.declared and None in markers:
            return np.zeros(PARTITIONS, np.int64)
        return np.maximum(found, 0)

    def done(self, run: Run) -> int:
        return int(self.applied(run, run.store).sum())

    def rows(self, run: Run, client: Client, users: np.ndarray) -> Rows:
        """What the store holds for these users."""
        keys = encode_entity_keys([strings([f"u{user}" for user in users.tolist()])])
        types = {
            f"{function}_{minutes}m": "Int64" if function == "count" else "Float64"
            for minutes in list(WINDOWS)[: self.windows]
            for function in FUNCTIONS
        }
        reader = RowReader(client, run.environment()["BENCHMARK"])
        return reader.read("spend", RowLayout(types), keys)

    def check(
        self, payments: Payments, users: np.ndarray, at: np.ndarray, values: Sequence[Columns]
    ) -> int:
        """Compare rows, read one after the other, with the oracle; how many values were right."""
        checked = 0
        for minutes in list(WINDOWS)[: self.windows]:
            got = {}
            for function in FUNCTIONS:
                name = f"{function}_{minutes}m"
                column = concat([c[name] for c in values], "float64")
                assert isinstance(column, NumericColumn)
                got[function] = np.where(column.valid, column.values, np.nan)
            window, hop = minutes * MINUTE, WINDOWS[minutes] * MINUTE
            checked += oracle.check_store(payments, users, at, got, window_ms=window, hop_ms=hop)
        return checked

    def verify(self, run: Run, payments: Payments) -> str:
        """Every value of every user, as of the instant that its row is true of."""
        assert not run.limits or sum(run.limits) == len(payments), "it reads the whole topic"
        users = np.unique(payments.users)
        rows = self.rows(run, run.store, users)
        assert rows.present.all(), f"{(~rows.present).sum():,} users have no row"
        last = np.zeros(payments.keys, np.int64)
        np.maximum.at(last, payments.users, payments.times)
        at = np.maximum(rows.as_of, last[users])
        assert (at < rows.valid_until).all(), "a row was no longer true when its user paid last"
        checked = self.check(payments, users, at, [rows.values])
        return f"all {checked:,} values of all {len(users):,} users"

    def clean(self, run: Run) -> None:
        delete_project(run.store, run.environment()["BENCHMARK"])
        super().clean(run)
