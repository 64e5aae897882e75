"""What fresh features are worth: fraud found with read-your-writes on, off, and features 60 s old.

    python benchmarks/fraud.py [--minutes 2] [--cards 1000000] [--days 3]

The payments template on servers of its own: three days of payments fill the windows and train the
model, then the live part is published in real time. Two services score the same payments by the
same model from the rows of the same feature worker: one waits until a payment is in its features
(at most 200 ms), the other reads what is there (`freshness_wait_ms` 0). The third setting is
Feast's history as of each payment's instant less 60 s, with what the payment itself says: the best
that a pipeline could do whose features are a minute behind.

Each setting has the threshold at which 1 % of the honest payments are taken for fraud. Deadlines
are a minute, so that a busy machine answers late and not by a default. Before anything is printed:
each service answered each payment once and by Triton; each score is the booster's own for the
vector that was logged; and vectors that lack nothing equal history.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from machine import machine

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.card_payments import RunningBank  # noqa: E402
from support.flights import read_all  # noqa: E402
from support.stack import Stack  # noqa: E402

from streamsvc.agents.scoring_targets import served_topic  # noqa: E402
from streamsvc.demo import feast_repo  # noqa: E402
from streamsvc.demo.offline import read_served_log  # noqa: E402
from streamsvc.local.stack import LocalStack  # noqa: E402
from streamsvc.models.artifact import latest_version  # noqa: E402
from streamsvc.models.local_model import LocalModel  # noqa: E402
from streamsvc.models.training_data import matrix_of  # noqa: E402
from streamsvc.settings import load_settings  # noqa: E402

FALSE_POSITIVES = 0.01
BEHIND = pd.Timedelta(seconds=60)
KINDS = ("trial 1", "trial 2", "trial 3", "trial 4", "trial 5", "use")
OFF = '''"""The same service without a wait for its own events."""

from feast import FeatureService
from features import card_days, card_minutes, card_seconds, this_payment
from services import fraud

off = FeatureService(
    name=f"{fraud.name}_off",
    features=[card_seconds, card_minutes, card_days, this_payment],
    tags={
        **fraud.tags,
        "streamsvc.predictions": f"predictions.{fraud.name}_off",
        "streamsvc.freshness_wait_ms": "0",
    },
)
'''


class Setting(NamedTuple):
    """One way to have features; arrays are in the order of the live payments."""

    name: str
    scores: np.ndarray
    stale: np.ndarray
    waited_ms: np.ndarray


def say(what: str) -> None:
    """Progress; what Feast prints is elsewhere."""
    print(f"{time.strftime('%H:%M:%S')} {what}", file=sys.__stderr__, flush=True)


def prepare(bank: RunningBank, minutes: float, cards: int, days: float) -> str:
    """Everything before the first live payment; the instant of it."""
    live = bank.generate(live_minutes=minutes, cards=cards, days=days)
    (bank.path / "services_off.py").write_text(OFF)
    bank.apply()
    labels = ("--labels", "data/labels.parquet", "--label-column", "fraud")
    say("training")
    trained = bank.streamsvc("train", bank.service, *labels, "--json")
    assert json.loads(trained)["loaded"]
    say("payments before the live part")
    bank.start_worker("features")
    bank.streamsvc("produce", "payments", "--until", live)
    # Time stands still until the live part begins.
    bank.send_clocks(pd.Timestamp(live).value // 1_000_000)
    bank.wait_until_applied()
    bank.start_worker("scoring", "scoring")
    bank.wait_until(lambda: bank.log_of("scoring").count("requests_begin_at_the_end") == 2)
    bank.wait_until(lambda: "scoring_worker_started" in bank.log_of("scoring"))
    return live


def served(
    bank: RunningBank, name: str, service: str, model: LocalModel
) -> tuple[Setting, np.ndarray, np.ndarray]:
    """What a service answered to the live payments; its vectors, and which of them are exact."""
    payments = bank.outcomes
    bank.wait_for_records(f"predictions.{service}", len(payments))
    answers = [json.loads(m.value()) for m in read_all(bank, f"predictions.{service}")]
    assert len(answers) == len(payments), (service, len(answers), len(payments))
    assert {a["fallback"] for a in answers} == {None}, service
    log = read_served_log(bank.settings, served_topic(service))
    at = payments["event_timestamp"].astype("int64")
    place = {key: i for i, key in enumerate(zip(payments["card_id"], at, strict=True))}
    order = np.array([place[a["entity"]["card_id"], a["request_time_ms"]] for a in answers])
    assert len(np.unique(order)) == len(payments), "a payment was answered twice"
    back = np.argsort(order)
    answers = [answers[i] for i in back.tolist()]
    vectors = log.matrix[[log.row[a["prediction_id"]] for a in answers]]
    scores = np.array([a["score"] for a in answers])
    np.testing.assert_allclose(model.predict(vectors), scores, atol=1e-6)
    fresh = np.array([a["stale_ms"] == 0 and a["ahead_ms"] == 0 for a in answers])
    stale = np.array([a["stale_ms"] > 0 for a in answers])
    waited = np.array([a["latency_ms"]["freshness"] for a in answers])
    return Setting(name, scores, stale, waited), vectors, fresh


def history(bank: RunningBank, behind: pd.Timedelta, features: list[str]) -> np.ndarray:
    """The vectors that Feast's history has for the live payments, that much earlier."""
    asked = bank.outcomes.drop(columns=["fraud", "kind"])
    asked["row"] = np.arange(len(asked))
    asked["event_timestamp"] -= behind
    service = bank.store.get_feature_service(bank.service)
    found = bank.store.get_historical_features(asked, service, full_feature_names=True).to_arrow()
    vectors = np.empty((len(asked), len(features)), np.float32)
    vectors[found.column("row").to_numpy()] = matrix_of(found, features)
    return vectors


def measure(bank: RunningBank) -> tuple[list[Setting], float]:
    """The three settings, verified; and the share of vectors that were held against history."""
    model = LocalModel(latest_version(bank.stack.model_repository / bank.service))
    on, vectors, exact = served(bank, "read-your-writes on", bank.service, model)
    off, *_ = served(bank, "read-your-writes off", f"{bank.service}_off", model)
    now = history(bank, pd.Timedelta(0), model.card.features)
    # A sum may differ in the last bit of a float32, by the order of its terms.
    np.testing.assert_allclose(vectors[exact], now[exact], rtol=1e-6)
    old = model.predict(history(bank, BEHIND, model.card.features))
    everything, nothing = np.ones(len(old), np.bool_), np.zeros(len(old))
    late = Setting("features 60 s behind", old, everything, nothing)
    return [on, off, late], float(exact.mean())


def told(scores: np.ndarray, honest: np.ndarray) -> np.ndarray:
    """Which payments are taken for fraud where at most 1 % of the honest ones are."""
    ranked = np.sort(scores[honest])[::-1]
    return np.asarray(scores > ranked[int(FALSE_POSITIVES * len(ranked))])


def show(settings: list[Setting], kind: np.ndarray) -> None:
    """One row a setting, as a table of Markdown."""
    honest = kind == "honest"
    print(f"{(~honest).sum():,} frauds and {honest.sum():,} honest payments\n")
    print(f"| features | recall | {' | '.join(KINDS)} | stale vectors | waited p50 / p99 |")
    print("|---" * (4 + len(KINDS)) + "|")
    for setting in settings:
        yes = told(setting.scores, honest)
        assert yes[honest].mean() <= FALSE_POSITIVES
        recall, n = yes[~honest].mean(), (~honest).sum()
        spread = 1.96 * np.sqrt(recall * (1 - recall) / n)
        by_kind = " | ".join(f"{yes[kind == k].mean():.0%}" for k in KINDS)
        p50, p99 = np.percentile(setting.waited_ms, [50, 99])
        print(
            f"| {setting.name} | {recall:.1%} ± {spread:.1%} | {by_kind} "
            f"| {setting.stale.mean():.1%} | {p50:.0f} / {p99:.0f} ms |"
        )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=2.0, help="of live payments")
    parser.add_argument("--cards", type=int, default=1_000_000)
    parser.add_argument("--days", type=float, default=3.0, help="before them")
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the servers end, too
    with tempfile.TemporaryDirectory() as directory:
        stack, log = Path(directory) / "stack", Path(directory) / "feast.log"
        stack.mkdir()
        say("servers, payments, definitions")
        LocalStack(stack).up()
        try:
            # A machine that is busy may answer late; what is measured is what the answer is.
            patience = {"STREAMSVC_DEADLINE_MS": "60000"}
            servers = Stack(load_settings(stack), stack)
            with RunningBank(servers, Path(directory), **patience) as bank:
                with feast_repo.quiet_feast(log):
                    live = prepare(bank, given.minutes, given.cards, given.days)
                say(f"{given.minutes:g} minutes of live payments")
                bank.streamsvc("produce", "payments", "--from", live, "--speed", "1")
                say("comparing")
                with feast_repo.quiet_feast(log):
                    settings, exact = measure(bank)
                kind = bank.outcomes["kind"].to_numpy()
                bank.assert_workers_alive()
        finally:
            LocalStack(stack).down()
    print(machine("xgboost", "feast", "numba"))
    print(f"{exact:.2%} of the vectors with read-your-writes lack nothing, and equal history")
    show(settings, kind)


if __name__ == "__main__":
    main()
