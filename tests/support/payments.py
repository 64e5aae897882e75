"""Card payments for the tests: a seeded generator, and what each feature must be.

The oracle shares no code with the package. It reads the topic itself, judges every record in plain
Python (malformed, late), and evaluates each aggregate from its definition over raw events.
"""

from __future__ import annotations

import json
import math
import random
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime

from aiokafka.partitioner import murmur2
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START_MS = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)
LATENESS_MS = 2 * MINUTE
ALL_TIME = (1 << 60, 1 << 60)

# As declared in tests/repos/payments and, without the text, in tests/repos/payments_keyed
HABITS = [
    ("shops_of_day", "shop_id", "count_distinct", DAY, HOUR),
    ("payments_ever", "payment_id", "count_distinct", *ALL_TIME),
    ("usual_amount_of_day", "amount", "p50", DAY, HOUR),
    ("high_amount_of_hour", "amount", "p95", HOUR, MINUTE),
    ("high_amount_ever", "amount", "p99", *ALL_TIME),
    ("spent_ever", "amount", "sum", *ALL_TIME),
    ("last_country", "country", "last", HOUR, MINUTE),
    ("first_payment_ever", "payment_id", "first", *ALL_TIME),
]

# view -> [(feature, column, function, window, hop)], as declared in tests/repos/payments
VIEWS = {
    "card_spend": [
        ("count_amount_600s", "amount", "count", 10 * MINUTE, 10_000),
        ("sum_amount_600s", "amount", "sum", 10 * MINUTE, 10_000),
        ("mean_amount_3600s", "amount", "mean", HOUR, MINUTE),
        ("std_amount_3600s", "amount", "std", HOUR, MINUTE),
        ("max_amount_3600s", "amount", "max", HOUR, MINUTE),
        ("last_amount", "amount", "last", HOUR, MINUTE),
        ("first_amount_of_day", "amount", "first", DAY, HOUR),
        ("sum_items_86400s", "items", "sum", DAY, HOUR),
        ("min_amount_86400s", "amount", "min", DAY, HOUR),
        ("max_amount_86400s", "amount", "max", DAY, HOUR),
    ],
    "shop_sales": [
        ("count_amount_3600s", "amount", "count", HOUR, 5 * MINUTE),
        ("sum_amount_3600s", "amount", "sum", HOUR, 5 * MINUTE),
        ("var_amount_86400s", "amount", "var", DAY, 5 * MINUTE),
        ("max_items_86400s", "items", "max", DAY, 5 * MINUTE),
        ("mean_amount_604800s", "amount", "mean", 7 * DAY, HOUR),
    ],
    "card_in_shop": [
        ("visits", "amount", "count", DAY, 30 * MINUTE),
        ("usual_amount", "amount", "mean", DAY, 30 * MINUTE),
    ],
    "card_habits": HABITS,
    "card_newest": [
        (column, column, "latest", *ALL_TIME)
        for column in ("payment_id", "amount", "items", "country", "online")
    ],
    "card_abroad": [
        ("payments_abroad", "abroad", "count", HOUR, MINUTE),
        ("spent_abroad", "abroad", "sum", HOUR, MINUTE),
        ("usual_price", "price", "mean", DAY, HOUR),
    ],
}
KEYS = {
    "card_spend": ("card_id",),
    "shop_sales": ("shop_id",),
    "card_in_shop": ("card_id", "shop_id"),
    "card_abroad": ("card_id",),
    "card_habits": ("card_id",),
    "card_newest": ("card_id",),
}
# The same of tests/repos/payments_keyed, whose source declares its key
KEYED_VIEWS = {
    "card_spend": [
        (f"{function}_amount_{window // 1000}s", "amount", function, window, window // 60)
        for window in (10 * MINUTE, HOUR, DAY)
        for function in ("count", "sum", "mean", "min", "max")
    ],
    "shop_sales": [("sold_last_hour", "amount", "sum", HOUR, MINUTE)],
    "card_habits": HABITS,
}
MALFORMED = [
    b"{not json",
    b"",
    None,
    b'{"card_id": 7, "shop_id": "x", "paid_at": "2024-03-01T00:00:00Z"}',
    b'{"card_id": "c1", "shop_id": 1, "amount": 1.0, "items": 1}',
    b'{"card_id": "c1", "shop_id": 1, "amount": 1.0, "paid_at": "1600-01-01T00:00:00Z"}',
    b'{"card_id": "c1", "shop_id": 1, "amount": 1.0, "paid_at": "9999-01-01T00:00:00Z"}',
    b'{"card_id": "' + b"x" * 1_000_000 + b'", "shop_id": 1}',
]


@dataclass
class Made:
    """Records to produce, in order: (key or None, value or None)."""

    records: list[tuple[bytes | None, bytes | None]] = field(default_factory=list)
    malformed: int = 0


def generate(
    n: int, seed: int, *, start_ms: int = START_MS, cards: int = 3_000, keyed: bool = False
) -> Made:
    """`n` payments 400 ms apart: 5 % out of order, 0.1 % malformed, some null values.

    Some record keys are null, unless `keyed`; then event times are epoch milliseconds, too.
    """
    rng = random.Random(seed)
    made = Made()
    for i in range(n):
        if rng.random() < 0.001 or i == n // 2:
            made.records.append((b"bad", MALFORMED[made.malformed % len(MALFORMED)]))
            made.malformed += 1
            continue
        at = start_ms + i * 400
        if rng.random() < 0.05:
            at -= rng.randrange(0, 200_000)  # some of them beyond the allowed lateness
        card = f"c{int(cards * rng.random() ** 2)}"
        event = {
            "payment_id": f"p{seed}-{i}",
            "card_id": card,
            "shop_id": rng.randrange(400),
            "amount": round(rng.gammavariate(2, 30), 2) if rng.random() > 0.01 else None,
            "items": rng.randrange(6),
            "country": rng.choice(["NL", "DE", "FR", None]),
            "online": rng.random() < 0.5,
            "paid_at": at if keyed else datetime.fromtimestamp(at / 1000, UTC).isoformat(),
        }
        key = card.encode() if keyed or rng.random() > 0.1 else None
        made.records.append((key, json.dumps(event).encode()))
    return made


@dataclass
class Truth:
    """What the topic holds, judged: accepted events, and the records that were refused."""

    events: list[dict]
    refusals: dict[tuple[int, int], str]
    """Partition and offset -> `late`, `wrong_key` or `malformed`."""
    ends: dict[int, int]

    @property
    def refused(self) -> int:
        return len(self.refusals)

    @property
    def requests(self) -> set[tuple[int, int]]:
        """Partition and offset of whatever a scoring worker can answer: not only what counts."""
        in_time = {event["order"][1:] for event in self.events}
        return in_time | {place for place, why in self.refusals.items() if why != "malformed"}


def read_truth(
    bootstrap: str | dict,
    topic: str,
    *,
    keyed: bool = False,
    decode=json.loads,
    kafka_time: bool = False,
) -> Truth:
    """Read the whole topic and judge each record by the log of its own partition alone.

    `bootstrap` may be a whole configuration of librdkafka. `decode` makes an event of a value, or
    raises ValueError, KeyError or struct.error. With `kafka_time` its time is that of its record.
    """
    consumer = Consumer(
        {
            **({"bootstrap.servers": bootstrap} if isinstance(bootstrap, str) else bootstrap),
            "group.id": "truth",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    partitions = consumer.list_topics(topic, timeout=10).topics[topic].partitions
    ends = {
        p: consumer.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]
        for p in partitions
    }
    # By the ends of partitions, because markers of transactions have offsets, too.
    consumer.assign([TopicPartition(topic, p, OFFSET_BEGINNING) for p in ends])
    left = set(ends)
    greatest: dict[int, int] = defaultdict(lambda: -1)
    truth = Truth([], {}, ends)
    while left:
        for message in consumer.consume(10_000, timeout=0.2):
            if message.error() is not None:
                assert message.error().code() == KafkaError._PARTITION_EOF, message.error()
                left.discard(message.partition())
                continue
            headers = dict(message.headers() or [])
            if message.value() is None and "streamsvc-clock" in headers:
                continue
            event = _parse(message.value(), message.timestamp()[1], decode, kafka_time)
            partition, offset = message.partition(), message.offset()
            if event is None:
                truth.refusals[partition, offset] = "malformed"
                continue
            if keyed and (murmur2(event["card_id"].encode()) & 0x7FFFFFFF) % len(ends) != partition:
                truth.refusals[partition, offset] = "wrong_key"
                continue
            if event["at"] < greatest[partition] - LATENESS_MS:
                truth.refusals[partition, offset] = "late"
                continue
            greatest[partition] = max(greatest[partition], event["at"])
            event["order"] = (event["at"], partition, offset)
            truth.events.append(event)
    consumer.close()
    return truth


def _parse(value: bytes | None, kafka_ms: int, decode, kafka_time: bool) -> dict | None:
    if not value or len(value) > 262_144:
        return None
    try:
        event = decode(value)
        paid_at = kafka_ms if kafka_time else event["paid_at"]
        at = paid_at if isinstance(paid_at, int) else _iso_ms(paid_at)
    except (ValueError, KeyError, struct.error):
        return None
    if not isinstance(event.get("card_id"), str) or not isinstance(event.get("shop_id"), int):
        return None
    event["at"] = at
    if event["at"] < 0 or event["at"] > kafka_ms + HOUR:
        return None
    amount, items, country = event.get("amount"), event.get("items"), event.get("country")
    event["abroad"] = amount if country is not None and country != "NL" else None
    event["price"] = (
        amount / items if country is not None and amount is not None and items else None
    )
    event["in_udf"] = country is not None
    return event


def _iso_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def by_key(truth: Truth, view: str) -> dict[tuple, list[dict]]:
    """Events of each entity of a view, in canonical order."""
    groups: dict[tuple, list[dict]] = defaultdict(list)
    for event in truth.events:
        if view == "card_abroad" and not event["in_udf"]:
            continue
        groups[tuple(event[k] for k in KEYS[view])].append(event)
    for events in groups.values():
        events.sort(key=lambda e: e["order"])
    return groups


def expected(features: list[tuple], events: list[dict], t: int) -> dict[str, float | None]:
    """Every feature of one entity at instant `t`, from its definition."""
    out: dict[str, float | None] = {}
    for feature, column, function, window, hop in features:
        left = (t - window) // hop * hop
        rows = [e.get(column) for e in events if left <= e["at"] <= t]
        if function == "latest":
            out[feature] = rows[-1] if rows else None
        else:
            out[feature] = _aggregate(function, [v for v in rows if v is not None])
    return out


def _aggregate(function: str, values: list) -> float | str | None:
    n = len(values)
    if function == "count_distinct":
        return len(set(values))
    if function == "count":
        return n
    if not n:
        return None
    if function[0] == "p":
        return sorted(values)[int(function[1:]) * (n - 1) // 100]
    if function in ("var", "std"):
        if n < 2:
            return None
        mean = math.fsum(values) / n
        var = math.fsum((v - mean) ** 2 for v in values) / (n - 1)
        return var if function == "var" else math.sqrt(var)
    return {
        "sum": lambda: math.fsum(values),
        "mean": lambda: math.fsum(values) / n,
        "min": lambda: min(values),
        "max": lambda: max(values),
        "first": lambda: values[0],
        "last": lambda: values[-1],
    }[function]()


def differs(got: float | str | None, want: float | str | None, function: str = "") -> bool:
    """Whether a served value is not the expected one, within what docs/windows.md promises."""
    if got is None or want is None:
        return got is not want
    if isinstance(want, str):
        return got != want
    accuracy = 1e-9
    if function[:1] == "p":
        accuracy = 1 / 129 + 1e-9
    elif function == "count_distinct" and want > 511:
        accuracy = 4 * 1.04 / 64
    return not abs(got - want) <= max(accuracy * abs(want), 1e-9)


def differences(store, features, groups, view, keys, instant) -> list[tuple]:
    """(entity, feature, served, expected) of every feature that `get_online_features` has wrong."""
    names = KEYS[view]
    entities = {k: [key[i] for key in keys] for i, k in enumerate(names)}
    asked = [f"{view}:{name}" for name, *_ in features]
    served = store.get_online_features(asked, entities).to_dict()
    wrong = []
    for row, key in enumerate(keys):
        want = expected(features, groups[key], instant)
        # An entity whose tiles have all gone may have no row at all.
        gone = all(v in (None, 0) for v in want.values())
        for name, _, function, *_ in features:
            got, value = served[name][row], want[name]
            if differs(got, value, function) and not (gone and got in (None, 0)):
                wrong.append((key, name, got, value))
    return wrong
