"""`feast materialize` from the archive writes what feature workers have in their store.

The same payments twice: as a stream through workers, and as an archive through the compute engine
into a project of its own. At the same instants, rows are equal to the bit where counting is exact,
and end at the same instants.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from support.payments import DAY, HOUR, MINUTE, VIEWS, by_key, differs, generate, read_truth
from support.repo import RunningRepo

from streamsvc.columns import numeric, strings
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.store.client import connect
from streamsvc.store.reader import RowReader
from streamsvc.store.row import RowLayout

COLUMNS = ("payment_id", "card_id", "shop_id", "amount", "items", "country", "online")


def write_archive(path: Path, truth) -> None:
    """The accepted events as the raw events they were, with their places in the topic."""
    frame = pd.DataFrame([{name: e.get(name) for name in COLUMNS} for e in truth.events])
    frame["items"] = frame["items"].astype("Int64")
    frame["paid_at"] = pd.to_datetime([e["at"] for e in truth.events], unit="ms", utc=True)
    frame["streamsvc_partition"] = [e["order"][1] for e in truth.events]
    frame["streamsvc_offset"] = [e["order"][2] for e in truth.events]
    path.parent.mkdir(exist_ok=True)
    frame.sample(frac=1, random_state=1).to_parquet(path, coerce_timestamps="ms")


def rows_of(repo, view, keys):
    found = repo.plan.view(view)
    layout = RowLayout({name: found.feature_types[name] for name in found.features})
    parts = [
        strings([key[i] for key in keys])
        if join_key.type == "string"
        else numeric([key[i] for key in keys])
        for i, join_key in enumerate(found.join_keys)
    ]
    reader = RowReader(connect(repo.settings), repo.project)
    return reader.read(view, layout, encode_entity_keys(parts))


def test_materialized_rows_are_those_of_the_stream(stack, tmp_path):
    feast = str(Path(sys.executable).parent / "feast")
    with (
        RunningRepo(stack, tmp_path / "stream", "payments") as stream,
        RunningRepo(stack, tmp_path / "batch", "payments") as batch,
    ):
        stream.create_topic(4)
        stream.apply()
        for name in ("w0", "w1"):
            stream.start_worker(name)
        stream.produce(generate(20_000, seed=11).records)
        stream.wait_until_applied()
        truth = read_truth(stream.settings.kafka_bootstrap_servers, stream.topic)
        batch.apply()
        write_archive(batch.path / "data" / "payments.parquet", truth)

        last = max(e["at"] for e in truth.events)
        start = datetime.fromtimestamp(min(e["at"] for e in truth.events) / 1e3, UTC)
        # Half a minute off the hops, so that the clock, which goes on, meets none while we read.
        for later in (7 * MINUTE, 65 * MINUTE, DAY + HOUR):
            instant = (last + later) // MINUTE * MINUTE + 30_500
            stream.send_clocks(instant)
            stream.wait_until_applied()
            end = datetime.fromtimestamp(instant / 1e3, UTC).isoformat()
            batch.run(feast, "materialize", start.isoformat(), end)
            for view, features in VIEWS.items():
                keys = sorted(by_key(truth, view), key=str)
                assert_same(stream, batch, view, features, keys, instant)
        stream.assert_workers_alive()


def assert_same(stream, batch, view, features, keys, instant) -> None:
    live, made = rows_of(stream, view, keys), rows_of(batch, view, keys)
    assert made.present.all(), view
    assert live.present.all(), view
    assert not made.incarnation.any()
    covered = (live.as_of <= instant) & (instant < live.valid_until)
    assert covered.mean() > 0.9, view  # the wall clock goes on, and ages what falls due meanwhile
    assert np.array_equal(made.valid_until[covered], live.valid_until[covered]), view
    assert (made.as_of <= instant).all()
    # A worker may claim less of the past, where its events came out of order.
    assert (made.as_of <= live.as_of)[covered].all(), view
    for name, _, function, *_ in features:
        ours, theirs = (rows.values[name].to_pylist() for rows in (made, live))
        wrong = [
            (keys[i], ours[i], theirs[i])
            for i in np.flatnonzero(covered)
            if differs(ours[i], theirs[i], "" if function[:1] == "p" else function)
        ]
        assert not wrong, f"{view}:{name}: {wrong[:3]}"
