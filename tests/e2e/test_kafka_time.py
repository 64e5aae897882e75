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
from support.repo import archived_payments
from support.served import assert_served

N = 4_000
HISTORY = ("card_spend", "shop_sales")
MENDED = "mended"
FIX = f"""
def mend(value):
    return value.replace(b"'", b'"') if value and b"{MENDED}" in value else None
"""


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


def send_again_what_was_mended(repo, at):
    """A payment that was refused comes back as a dead letter, corrected; it happened at `at`."""
    broken = {"payment_id": MENDED, "card_id": "c1", "shop_id": 1, "amount": 5.0, "country": "DE"}
    repo.produce([(b"c1", json.dumps(broken).replace('"', "'").encode(), at)])
    (repo.path / "fix.py").write_text(FIX)
    replay = ("dead-letters", "replay", repo.topic, "--correct", "fix.py:mend", "--json", "--yes")
    sent = []

    def taken() -> bool:
        sent.extend(json.loads(repo.streamsvc(*replay))["sent"])
        return bool(sent)

    repo.wait_until(taken)
    assert len(sent) == 1
    return at


def test_the_stream_and_history_go_by_the_timestamps_of_records(stack, tmp_path):
    start_ms = time.time_ns() // 1_000_000 - HOUR
    made = generate(N, seed=11, start_ms=start_ms, cards=200)
    with archived_payments(stack, tmp_path, PAYMENTS_FORMAT="untimed") as repo:
        repo.create_topic(4)
        repo.apply()
        assert "can run" in repo.streamsvc("check")
        repo.start_worker("w0")
        repo.start_worker("archive", "archive")
        repo.produce(untimed(made.records, start_ms))
        sent_again_ms = send_again_what_was_mended(repo, start_ms + N * 400 - MINUTE)
        truth = assert_served(repo, VIEWS, kafka_time=True)
        reasons = repo.dead_letter_reasons()
        assert sum(reasons.values()) == truth.refused
        assert reasons["late"] > 20
        mended = [e for e in truth.events if e.get("payment_id") == MENDED]
        assert [e["at"] for e in mended] == [sent_again_ms], "it has kept its time"
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
