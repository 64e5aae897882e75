"""What was served is what history says at the logged positions: by the command, on real servers."""

from __future__ import annotations

import asyncio
import json
import signal

import numpy as np
import pandas as pd
import pyarrow as pa
from confluent_kafka import Producer
from support.flights import RunningFlights
from support.payments import START_MS, generate
from support.repo import archived_payments

from streamsvc.agents.claims import began_at
from streamsvc.agents.replay import publish
from streamsvc.agents.scoring_targets import served_topic
from streamsvc.monitor.parity.recompute import OTHER
from streamsvc.scoring.served_log import read_served
from streamsvc.transport.reader import EARLIEST, read_to_end


def parity(repo, service: str, code: int, *more: str) -> dict:
    return json.loads(repo.invoke("parity", service, "--json", *more, code=code).stdout)


def total(report: dict, outcome: str) -> int:
    return sum(feature[outcome] for feature in report["features"])


def served(repo, service: str) -> list[pa.RecordBatch]:
    async def batches():
        topic = served_topic(service)
        starts = dict.fromkeys(range(repo.admin.partitions(topic)), EARLIEST)
        return [
            read_served(chunk.value(i))
            async for chunk in read_to_end(repo.settings, topic, starts)
            for i in range(len(chunk))
        ]

    return asyncio.run(batches())


def log_doctored(repo, service: str, features: dict[str, float]) -> None:
    """Log one of the vectors again, as another prediction, with some features changed."""
    batch = served(repo, service)[-1].slice(0, 1)
    names = json.loads(batch.schema.metadata[b"features"])
    vector = batch.column("features").flatten().to_numpy(zero_copy_only=False).copy()
    for name, value in features.items():
        vector[names.index(name)] = value
    changed = pa.FixedSizeListArray.from_arrays(pa.array(vector, pa.float32()), len(names))
    old = batch.column("prediction_id")[0].as_py()
    service_and_topic, place = old.split("-", 1)
    columns = {name: batch.column(name) for name in batch.schema.names}
    columns["features"] = changed
    columns["prediction_id"] = pa.array([f"{service_and_topic}x-{place}"])
    made = pa.RecordBatch.from_arrays(list(columns.values()), schema=batch.schema)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_batch(made)
    producer = Producer({"bootstrap.servers": repo.settings.kafka_bootstrap_servers})
    producer.produce(served_topic(service), sink.getvalue().to_pybytes())
    assert producer.flush(30) == 0


def test_flights_at_free_speed_equal_history(triton, tmp_path):
    """Ten windowed views with udfs behind shuffles, a batch view, on-demand views; events and
    requests as fast as they go, a feature worker killed in between."""
    # Nobody waits: vectors may lack what is on its way, and hold what is to come.
    with RunningFlights(triton, tmp_path, STREAMSVC_FRESHNESS_WAIT_MS="0") as repo:
        repo.prepare()
        timeline = repo.timeline()
        publish(repo.settings, timeline, speed=400)
        repo.stop_worker("features", signal.SIGKILL)
        repo.start_worker("features")
        repo.wait_for_records(repo.predictions, timeline.counts()[repo.requests])
        repo.wait_until_applied()

        metrics = tmp_path / "parity.prom"
        report = parity(repo, repo.service, 0, "--metrics-file", str(metrics))
        assert report["vectors"] == timeline.counts()[repo.requests] > 100
        assert report["holds"]
        assert total(report, "unchecked") == 0
        features = len(report["features"])
        assert total(report, "match") == features * report["vectors"]
        assert features > 40
        assert set(report["origins"].values()) == {"topic"}
        assert report["ahead"] + report["stale"] > 0
        assert f'service="{repo.service}"' in metrics.read_text()

        matrix = np.concatenate(
            [
                b.column("features").flatten().to_numpy().reshape(-1, features)
                for b in served(repo, repo.service)
            ]
        )
        assert (~np.isnan(matrix)).mean() > 0.8, "there was something to compare"

        names = [f["feature"] for f in report["features"]]
        counted = next(n for n in names if n.startswith("origin_departures:"))
        log_doctored(repo, repo.service, {counted: 12_345.0})
        wrong = parity(repo, repo.service, 1)
        assert total(wrong, "mismatch") + total(wrong, "extra") == 1
        (found,) = [f for f in wrong["features"] if f["examples"]]
        assert found["feature"] == counted
        assert found["examples"][0]["served"] == 12_345.0
        shown = repo.invoke("parity", repo.service, code=1)
        assert "served 12345.0, history says" in shown.stdout
        assert "1 values" in shown.stderr


def test_payments_equal_the_archive_that_the_system_made(stack, tmp_path):
    """Trained on the archive, served, and held against it: without topics that are still whole.

    Views begin behind what the topic held before (`streamsvc.start`), until one of them is given
    all that the archive has.
    """
    service = stack.unique("risk")
    predictions = f"predictions.{service}"
    with archived_payments(
        stack,
        tmp_path,
        PAYMENTS_SERVICE=service,
        PAYMENTS_START="latest",
        STREAMSVC_MODEL_SERVER="in-process",
        STREAMSVC_DEADLINE_MS="60000",
    ) as repo:
        repo.create_topic(4)
        repo.apply()
        repo.start_worker("archive", "archive")
        repo.produce(generate(1_000, seed=0, start_ms=START_MS - 1_000 * 400).records)
        before = repo.admin.end_offsets(repo.topic)
        for i in range(2):
            repo.start_worker(f"w{i}")
        repo.wait_until_applied()
        first = generate(6_000, seed=1)
        repo.produce(first.records)
        repo.wait_until_applied()
        rows = [json.loads(v) for k, v in first.records if v and k != b"bad"]
        rng = np.random.default_rng(5)
        labels = pd.DataFrame(
            {
                "card_id": [r["card_id"] for r in rows],
                "shop_id": [r["shop_id"] for r in rows],
                "event_timestamp": pd.to_datetime([r["paid_at"] for r in rows], format="ISO8601"),
                "bad": rng.random(len(rows)) < 0.3,
            }
        )
        labels.to_parquet(repo.path / "data" / "labels.parquet")
        repo.streamsvc("train", service, "--labels", "data/labels.parquet", "--label-column", "bad")

        repo.start_worker("scoring", "scoring")
        repo.produce(generate(6_000, seed=2, start_ms=START_MS + 6_000 * 400).records)
        repo.stop_worker("w1", signal.SIGKILL)
        repo.wait_until_applied()
        repo.wait_for_records(predictions, 12_000)
        repo.stop_worker("archive")  # writes what it has gathered

        assert asyncio.run(began_at(repo.settings, repo.plan)) == {
            view.name: before for view in repo.plan.views
        }
        report = parity(repo, service, 0)
        assert report["vectors"] > 12_000
        assert report["origins"] == {"payments": "archive"}
        assert total(report, "match") == len(report["features"]) * report["vectors"]
        # Requests that the archive has not reached cannot be checked, and that is said.
        for seed in (3, 4):
            start_ms = START_MS + (9_000 + seed * 1_000) * 400
            repo.produce(generate(500, seed=seed, start_ms=start_ms, cards=50).records)
            repo.wait_until_applied()
        repo.wait_for_records(predictions, report["vectors"] + 900)
        later = parity(repo, service, 0)
        assert later["vectors"] > report["vectors"]
        assert total(later, "unchecked") > 0
        assert "not reached" in json.dumps(later["unchecked"])

        # From here on one view knows what was on the topic before the views began.
        answered = repo.records_of(predictions)
        repo.stop_worker("w0")
        filled = repo.invoke("backfill", "card_spend", "--processes", "1", "--json")
        assert json.loads(filled.stdout)["events"] > 12_000
        repo.start_worker("w0")
        repo.start_worker("archive", "archive")
        repo.produce(generate(500, seed=5, start_ms=START_MS + 14_000 * 400, cards=50).records)
        repo.wait_until_applied()
        repo.wait_for_records(predictions, answered + 450)
        repo.wait_until_archived()
        last = parity(repo, service, 0)
        # What was served of the incarnation before is not recomputed, and that is said. Vectors of
        # cards that had no row then are of none.
        ((reason, old),) = last["unchecked"].pop("card_spend").items()
        assert reason == OTHER
        assert 0.5 * answered < old <= answered
        assert not last["unchecked"]
        for feature in last["features"]:
            dark = old if feature["feature"].startswith("card_spend:") else 0
            assert feature["match"] == last["vectors"] - dark, feature
