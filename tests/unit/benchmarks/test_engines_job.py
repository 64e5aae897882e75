"""The payments that engines are compared on, and the oracle that they are held to."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ENGINES = Path(__file__).parents[3] / "benchmarks" / "engines"


@pytest.fixture(scope="module")
def job() -> ModuleType:
    return load("job")


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    return load("oracle")


@pytest.fixture(scope="module")
def ring() -> ModuleType:
    return load("ring")


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(ENGINES))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(ENGINES))


def test_payments_are_the_json_of_their_columns_in_the_partition_of_their_key(job) -> None:
    payments = job.generate(2_000, keys=50)
    found = [json.loads(value) for value in payments.values()]
    assert [p["user"] for p in found] == [f"u{user}" for user in payments.users]
    assert [p["amount"] for p in found] == payments.amounts.tolist()
    assert [p["ts"] for p in found] == payments.times.tolist()
    assert sum(payments.ends()) == 2_000
    assert min(payments.ends()) > 0
    # What Java's producer and librdkafka's murmur2 partitioner choose for "u0" … "u4".
    assert payments.homes[:5].tolist() == HOMES


def test_zipf_keys_are_skewed_and_uniform_ones_are_not(job) -> None:
    counts = {z: np.sort(np.bincount(job.generate(50_000, 1_000, z).users))[::-1] for z in (0, 1.1)}
    assert counts[0][0] < 100
    assert counts[1.1][0] / counts[1.1][1] == pytest.approx(2**1.1, rel=0.1)


def by_hand(payments, user: int, left: int, right: int) -> dict[str, float]:
    inside = [
        cents / 100
        for u, cents, at in zip(payments.users, payments.cents, payments.times, strict=True)
        if u == user and left <= at <= right
    ]
    nan = float("nan")
    if not inside:
        return {"count": 0, "sum": nan, "mean": nan, "min": nan, "max": nan}
    total = sum(inside)
    found = {"count": len(inside), "sum": total, "mean": total / len(inside)}
    return found | {"min": min(inside), "max": max(inside)}


@pytest.mark.parametrize(("meaning", "minutes"), [("grid", 10), ("hop", 9)])
def test_the_oracle_agrees_with_a_loop(job, oracle, meaning: str, minutes: int) -> None:
    payments = spread(job)
    users, at = payments.users[-40:], payments.times[-40:]
    found = oracle.features(payments, users, at, oracle.LEFT[meaning](at))
    for i, (user, instant) in enumerate(zip(users.tolist(), at.tolist(), strict=True)):
        left = (instant // 60_000 - minutes) * 60_000
        for name, value in by_hand(payments, user, left, instant).items():
            assert found[name][i] == pytest.approx(value, nan_ok=True), (name, user)


def test_a_window_without_payments_has_a_count_and_nothing_else(job, oracle) -> None:
    payments = spread(job)
    late = payments.times[-1:] + 3_600_000
    found = oracle.features(payments, payments.users[-1:], late, oracle.LEFT["slide"](late))
    assert found["count"] == [0]
    assert np.isnan([found[name][0] for name in ("sum", "mean", "min", "max")]).all()


def updates(job, oracle, ring):
    """What a faultless engine says of some users."""
    payments = spread(job)
    rings: dict[int, list] = {}
    rows = [
        ring.update(rings.setdefault(int(u), []), {"user": u, "amount": a, "ts": int(t)})
        for u, a, t in zip(payments.users, payments.amounts, payments.times, strict=True)
        if u < 5
    ]
    users, at = (np.array([row[column] for row in rows]) for column in ("user", "ts"))
    got = {name: np.array([row[name] for row in rows], float) for name in job.FUNCTIONS}
    return payments, users, at, got


def test_a_window_by_hand_is_right(job, oracle, ring) -> None:
    payments, users, at, got = updates(job, oracle, ring)
    assert oracle.check_records(payments, users, at, got, "grid") == len(users)


@pytest.mark.parametrize("name", ["count", "sum", "mean", "min", "max"])
def test_one_wrong_value_is_found(job, oracle, ring, name: str) -> None:
    payments, users, at, got = updates(job, oracle, ring)
    got[name][7] += 0.01
    with pytest.raises(AssertionError, match=f"values of {name} differ"):
        oracle.check_records(payments, users, at, got, "grid")


@pytest.mark.parametrize("rows", [[0, 0], [1, 2, 2]])
def test_a_lost_or_repeated_update_is_found(job, oracle, ring, rows: list[int]) -> None:
    payments, users, at, got = updates(job, oracle, ring)
    left = np.r_[rows, np.arange(3, len(users))]
    with pytest.raises(AssertionError, match="payments of 5 users"):
        oracle.check_records(
            payments, users[left], at[left], {n: v[left] for n, v in got.items()}, "grid"
        )


def test_the_store_is_compared_as_of_an_instant(job, oracle) -> None:
    payments = spread(job)
    users, at = np.arange(5), np.full(5, payments.times[-1])
    rows = [
        by_hand(payments, user, int(at[0]) // 60_000 * 60_000 - 600_000, int(at[0]))
        for user in range(5)
    ]
    got = {name: np.array([row[name] for row in rows]) for name in job.FUNCTIONS}
    assert oracle.check_store(payments, users, at, got) == 25
    with pytest.raises(AssertionError, match="values of count differ"):
        oracle.check_store(payments, users, at - 60_000, got)


def spread(job):
    """Payments of 20 users over an hour, so that windows forget."""
    payments = job.generate(2_000, keys=20)
    times = payments.times[0] + np.arange(2_000) * 1_800 + 7
    return job.Payments(payments.users, payments.cents, times, 20)


HOMES = [2, 0, 2, 2, 2]
