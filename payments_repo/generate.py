"""Card payments of a made-up bank, some of them by thieves: `python generate.py`.

A million cards pay once a day on average: the rank of a card is Zipf's (exponent 1, flattened for
the first thousand), evenings are busy and nights are not. Honest customers do what looks odd, too:
they try again after a failure, or buy several small things online within seconds.

Thieves try stolen numbers: five small online payments within three seconds on one card. Where that
worked, six times in ten, somebody buys something large a few minutes later. From ten minutes before
the live part on there is an attack: as many cards are tried within a minute as otherwise in an
hour and a half.

Into `data/` go

    payments.parquet   all payments: the archive of the topic `payments`
    labels.parquet     for training: what was known when the live part began. All frauds but those
                       of the first third of the time, and three honest payments for each
    outcomes.parquet   for judging: every payment of the live part, and what it was

The same arguments give the same files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

START_MS = 1_780_250_400_000  # 2026-05-31T18:00Z, the busiest hour of the day
DAY_MS = 86_400_000
MINUTE_MS = 60_000
SHOPS = 20_000
TRIED_AGAIN, SPREES, SMALL = 0.02, 0.01, 0.12  # shares of honest payments
TRIALS, TRIALS_MS = 5, 3_000
CASHED = 0.6  # share of tried cards that are used
USUAL_CARDS, ATTACKED_CARDS = 1.0, 90.0  # tried in a minute
ATTACK_BEFORE_MS = 10 * MINUTE_MS
HONEST_LABELS = 3  # for each fraud

Payments = dict[str, np.ndarray]  # columns of the same length


def zipf(rng: np.random.Generator, n: int, ranks: int) -> np.ndarray:
    """Ranks 0 … ranks - 1 with probability ~ 1 / (rank + ranks / 1000), by inversion."""
    flat = ranks / 1_000
    return np.minimum((flat * (1 + 1_000) ** rng.random(n) - flat).astype(np.int64), ranks - 1)


def small_amounts(rng: np.random.Generator, n: int) -> np.ndarray:
    """What app stores charge, and thieves who try a card."""
    return rng.uniform(0.5, 5.0, n)


def honest(rng: np.random.Generator, cards: int, span_ms: int) -> Payments:
    """One payment per card and day on average, more in the evening, each in its usual size."""
    n = rng.poisson(cards * span_ms / DAY_MS)
    minutes = np.arange(0, span_ms + MINUTE_MS, MINUTE_MS)
    busy = np.cumsum(1 + 0.9 * np.cos(2 * np.pi * minutes / DAY_MS))
    at = np.interp(rng.uniform(busy[0], busy[-1], n), busy, minutes)
    card = zipf(rng, n, cards)
    usual = rng.lognormal(3.2, 0.7, cards)
    amount = usual[card] * rng.lognormal(0, 0.6, n)
    small = rng.random(n) < SMALL
    return {
        "at": at,
        "card": card,
        "shop": zipf(rng, n, SHOPS),
        "amount": np.where(small, small_amounts(rng, n), amount),
        "online": small | (rng.random(n) < 0.25),
    }


def tried_again(rng: np.random.Generator, of: Payments) -> Payments:
    """A second payment of the same amount, a moment after one that seemed to fail."""
    again = rows(of, rng.random(len(of["at"])) < TRIED_AGAIN)
    return again | {"at": again["at"] + rng.uniform(700, 8_000, len(again["at"]))}


def sprees(rng: np.random.Generator, of: Payments) -> Payments:
    """One to four more small payments in the same online shop within half a minute."""
    begun = of["online"] & (of["amount"] < 5) & (rng.random(len(of["at"])) < SPREES / SMALL)
    small = rows(of, begun)
    more = rows(small, np.repeat(np.arange(len(small["at"])), rng.integers(1, 5, len(small["at"]))))
    n = len(more["at"])
    return more | {"at": more["at"] + rng.uniform(900, 30_000, n), "amount": small_amounts(rng, n)}


def thefts(
    rng: np.random.Generator, cards: int, from_ms: int, until_ms: int, per_minute: float
) -> tuple[Payments, np.ndarray]:
    """Trials and what follows them, and which trial each payment is (0 for what follows)."""
    n = rng.poisson(per_minute * (until_ms - from_ms) / MINUTE_MS)
    card, began = rng.integers(0, cards, n), rng.uniform(from_ms, until_ms, n)
    moments = np.sort(rng.uniform(0, TRIALS_MS, (n, TRIALS)), axis=1)
    one_shop = rng.random((n, 1)) < 0.5
    shop = np.where(one_shop, zipf(rng, n, SHOPS)[:, None], rng.integers(0, SHOPS, (n, TRIALS)))
    used = rng.random(n) < CASHED
    cashed = int(used.sum())
    later = rng.uniform(1, 8, cashed) * MINUTE_MS
    made = {
        "at": np.concatenate([(began[:, None] + moments).ravel(), began[used] + TRIALS_MS + later]),
        "card": np.concatenate([np.repeat(card, TRIALS), card[used]]),
        "shop": np.concatenate([shop.ravel(), zipf(rng, cashed, SHOPS)]),
        "amount": np.concatenate([small_amounts(rng, n * TRIALS), rng.lognormal(5.0, 0.6, cashed)]),
        "online": np.concatenate([np.ones(n * TRIALS, np.bool_), rng.random(cashed) < 0.7]),
    }
    trial = np.concatenate([np.tile(np.arange(1, TRIALS + 1), n), np.zeros(cashed, np.int64)])
    return made, trial


def rows(of: Payments, chosen: np.ndarray) -> Payments:
    """Some of the payments."""
    return {name: column[chosen] for name, column in of.items()}


def generate(cards: int, days: float, live_minutes: float, seed: int) -> tuple[pa.Table, int]:
    """All payments in time order, and the instant (epoch ms) at which the live part begins.

    Besides what is published, the table has `kind`: `honest`, `trial 1` … `trial 5`, `use`. No card
    pays twice within a millisecond.
    """
    rng = np.random.default_rng(seed)
    live_ms = round(days * DAY_MS)
    span_ms = live_ms + round(live_minutes * MINUTE_MS)
    usual = honest(rng, cards, span_ms)
    attack_ms = max(0, live_ms - ATTACK_BEFORE_MS)
    parts = [usual, tried_again(rng, usual), sprees(rng, usual)]
    kinds = [np.full(len(part["at"]), -1) for part in parts]
    for from_ms, per_minute in ((0, USUAL_CARDS), (attack_ms, ATTACKED_CARDS)):
        stolen, trial = thefts(rng, cards, from_ms, span_ms, per_minute)
        parts.append(stolen)
        kinds.append(trial)
    made = {name: np.concatenate([part[name] for part in parts]) for name in usual}
    kind, at = np.concatenate(kinds), made["at"].astype(np.int64)
    _, first = np.unique(at * cards + made["card"], return_index=True)  # sorted by time, then card
    first = first[at[first] < span_ms]
    names = pa.array(["honest", "use", *(f"trial {i}" for i in range(1, TRIALS + 1))])
    table = pa.table(
        {
            "payment_id": numbered("p-", np.arange(len(first)), 8),
            "card_id": numbered("c-", made["card"][first], 7),
            "shop_id": made["shop"][first],
            "amount": np.maximum(made["amount"][first].round(2), 0.01),
            "online": made["online"][first],
            "paid_at": pa.array(START_MS + at[first]).cast(pa.timestamp("ms", "UTC")),
            "kind": names.take(pa.array(kind[first] + 1)),
        }
    )
    return table, START_MS + live_ms


def numbered(prefix: str, numbers: np.ndarray, digits: int) -> pa.Array:
    """Names such as `c-0000042`."""
    text = pc.utf8_lpad(pa.array(numbers).cast(pa.string()), digits, "0")
    return pc.binary_join_element_wise(prefix, text, "")


def write(folder: Path, table: pa.Table, live_ms: int, seed: int) -> None:
    """The three files."""
    folder.mkdir(parents=True, exist_ok=True)
    parquet.write_table(table.drop_columns(["kind"]), folder / "payments.parquet")
    at = table.column("paid_at").cast(pa.int64()).to_numpy()
    fraud = pc.not_equal(table.column("kind"), "honest").to_numpy()
    known = (at >= START_MS + (live_ms - START_MS) / 3) & (at < live_ms)
    share = HONEST_LABELS * np.mean(fraud[known]) / np.mean(~fraud[known])
    labelled = known & (fraud | (np.random.default_rng(seed).random(len(at)) < share))
    columns = ["card_id", "event_timestamp", "amount", "online", "fraud", "kind"]
    names = [{"paid_at": "event_timestamp"}.get(name, name) for name in table.column_names]
    judged = table.rename_columns(names).append_column("fraud", pa.array(fraud)).select(columns)
    labels = judged.drop_columns(["kind"]).filter(pa.array(labelled))
    parquet.write_table(labels, folder / "labels.parquet")
    parquet.write_table(judged.filter(pa.array(at >= live_ms)), folder / "outcomes.parquet")


def main() -> None:
    """Write the files and say what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cards", type=int, default=1_000_000)
    parser.add_argument("--days", type=float, default=3.0, help="before the live part")
    parser.add_argument("--live-minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    folder = Path(__file__).parent / "data"
    table, live_ms = generate(given.cards, given.days, given.live_minutes, given.seed)
    write(folder, table, live_ms, given.seed)
    live = np.datetime64(live_ms, "ms")
    print(f"{len(table):,} payments in {folder}; the live part begins at {live}Z")


if __name__ == "__main__":
    main()
