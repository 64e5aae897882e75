"""Machines and money for a rate of events and a number of keys, from what was measured.

    python benchmarks/capacity.py [--events 1e7] [--keys 1e9] [--busy 0.6] …

Takes its costs from `results` of `features.py` (shuffled), `engine.py` and `store.py`; one view of
15 features in three windows (10 minutes by the minute, an hour by five minutes, a day by the hour).

- Cores: what an event has cost worker, broker and store, which are `--busy` then. Rows of 100,000
  keys at half a million events a second are written once for every few events; with more keys it
  is a row for each, so the store may need several times that.
- State: a window's tile of a key is live if the key had an event in its hop. Keys are uniform, so
  that is so with probability 1 - exp(-rate · hop); skewed keys have fewer.
- The broker writes what it is sent `--replicas` times, as does the store keep its rows twice.
- Prices are those of a general-purpose machine in a public cloud, to be replaced by your own.
"""

from __future__ import annotations

import argparse
import math

import results
from report import table
from spend import WINDOWS

TB = 1e12
STORE_COPIES = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=float, default=1e7, help="a second")
    parser.add_argument("--keys", type=float, default=1e9)
    parser.add_argument("--busy", type=float, default=0.6, help="share of a core that is used")
    parser.add_argument("--replicas", type=int, default=3, help="of a topic")
    parser.add_argument("--cores", type=int, default=16, help="of a machine")
    parser.add_argument("--memory", type=float, default=128e9, help="bytes of a machine for data")
    parser.add_argument("--price", type=float, default=1.0, help="of a machine an hour")
    given = parser.parse_args()
    found = results.read_all()
    path = next(r for r in found["features"]["rows"] if r["path"] == "shuffled")
    store = next(r for r in found["store"]["rows"] if r["store and client"] == "streamsvc")
    tile = found["engine"]["figures"]["tile_bytes"]
    rate = given.events / given.keys
    tiles = sum(window // hop * (1 - math.exp(-rate * hop / 1_000)) for window, hop in WINDOWS)
    needs = {
        "feature workers": (path["worker CPU, µs an event"], tiles * tile * given.keys),
        "brokers": (path["kafka CPU, µs an event"] * given.replicas, 0.0),
        # A card lies in three rows there, so that is more than one view needs.
        "online store": (
            path["valkey CPU, µs an event"] * STORE_COPIES,
            store["bytes a card"] * given.keys * STORE_COPIES,
        ),
    }
    rows = []
    for who, (us, memory) in needs.items():
        cores = given.events * us / 1e6 / given.busy
        machines = max(math.ceil(cores / given.cores), math.ceil(memory / given.memory))
        rows.append(
            {
                "part": who,
                "CPU, µs an event": us,
                "cores": math.ceil(cores),
                "memory, TB": memory / TB,
                "machines": machines,
                "a day": f"{machines * given.price * 24:,.0f}",
            }
        )
    total = {name: sum(row[name] for row in rows) for name in ("cores", "memory, TB", "machines")}
    days = f"{total['machines'] * given.price * 24:,.0f}"
    rows.append({"part": "all", "CPU, µs an event": None, **total, "a day": days})
    print(table(rows))
    results.write(
        "capacity",
        rows,
        note=(
            f"{given.events:,.0f} events/s of {given.keys:,.0f} uniform keys; "
            f"{tiles:.0f} live tiles a key of {tile:.0f} bytes; cores "
            f"{given.busy:.0%} busy; topics {given.replicas} times, rows {STORE_COPIES} times; "
            f"machines of {given.cores} cores and {given.memory / 1e9:.0f} GB for data at "
            f"{given.price:g} an hour."
        ),
    )


if __name__ == "__main__":
    main()
