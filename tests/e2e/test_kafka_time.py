"""Payments without a time of their own: their Kafka timestamps are what everybody goes by."""

from __future__ import annotations

import json
import random
import time
from datetime import UTC, datetime

import pandas as pd
from support.payments import (
    HOUR,
    KEYS,
    MINUTE,
    VIEWS,
    by_key,
    differs,
    expected,
    generate,
)
from support.repo import RunningRepo
from support.served import assert_served

N = 4_000
HISTORY = ("card_spend", "shop_sales")


def untimed(records, at):
    """The payments, each with its time as the timestamp of its record."""
    found = []
    for key, value in records:
        if key == b"bad":
            found.append((key, value, at))
            continue
        event = json.loads(value)
        at = round(datetime.fromisoformat(event.pop("paid_at")).timestamp() * 1_000)
        found.append((key, json.dumps(event).encode(), at))
    return found


def test_the_stream_and_history_go_by_the_timestamps_of_records(stack, tmp_path):
    start_ms = time.time_ns() // 1_000_000 - HOUR
    made = generate(N, seed=11, start_ms=start_ms, cards=200)
    with RunningRepo(
        stack,
        tmp_path,
        "payments",
        PAYMENTS_FORMAT="untimed",
        PAYMENTS_ARCHIVE="data/archive",
        STREAMSVC_ARCHIVE_INTERVAL_S="0.3",
    ) as repo:
        repo.create_topic(4)
        repo.apply()
        assert "can run" in repo.streamsvc("check")
        repo.start_worker("w0")
        repo.start_worker("archive", "archive")
        repo.produce(untimed(made.records, start_ms))
        truth = assert_served(repo, VIEWS, kafka_time=True)
        reasons = repo.dead_letter_reasons()
        assert sum(reasons.values()) == truth.refused
        assert reasons["late"] > 20
        repo.stop_worker("archive")  # writes what it has gathered

        rng = random.Random(3)
        for view in HISTORY:
            groups = by_key(truth, view)
            asked = rng.choices(sorted(groups), k=300)
            instants = [start_ms + rng.randrange(N * 400 + 30 * MINUTE) for _ in asked]
            frame = pd.DataFrame(asked, columns=list(KEYS[view]))
            frame["event_timestamp"] = [datetime.fromtimestamp(t / 1_000, UTC) for t in instants]
            names = [f"{view}:{feature}" for feature, *_ in VIEWS[view]]
            found = repo.store.get_historical_features(frame, names).to_df().to_dict("records")
            for key, at, got in zip(asked, instants, found, strict=True):
                want = expected(VIEWS[view], groups[key], at)
                for feature, _, function, *_ in VIEWS[view]:
                    value = None if pd.isna(got[feature]) else got[feature]
                    assert not differs(value, want[feature], function), (view, key, at, feature)
