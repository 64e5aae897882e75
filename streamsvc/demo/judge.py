"""From what a replay left behind to the report: counts, AUC both ways, vectors bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from streamsvc.agents.scoring_targets import served_topic
from streamsvc.demo.flights import LABELS
from streamsvc.demo.model import Deployed
from streamsvc.demo.offline import (
    auc_score,
    historical_vectors,
    read_served_log,
    requests_of,
)
from streamsvc.demo.replay import Replayed
from streamsvc.demo.report import DemoReport, Percentiles
from streamsvc.demo.scoreboard import Answer, Latencies
from streamsvc.demo.vectors import Comparison, compare_vectors
from streamsvc.demo.warm_up import Period
from streamsvc.errors import IntegrityError
from streamsvc.models.local_model import LocalModel
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["judge"]


def judge(
    settings: Settings,
    repo: Path,
    store: Any,
    deployed: Deployed,
    period: Period,
    replayed: Replayed,
    dead_letter_topics: Sequence[str],
) -> tuple[DemoReport, Comparison]:
    """Everything that the report says, and every vector that differs from history."""
    card = deployed.card
    requests = requests_of(repo / "data" / LABELS, (period.start_ms, period.end_ms))
    served = read_served_log(settings, served_topic(card.service))
    if served.row and list(served.features) != card.features:
        raise IntegrityError(f"The served log of {card.service} holds vectors of another model")
    answers: dict[str, Answer] = {}
    latencies = []
    for flight_id, sent_ms, answer in replayed.scoreboard.answered():
        answers[flight_id] = answer
        latencies.append(answer.received_ms - sent_ms)

    offline = historical_vectors(store, card.service, requests, card.features)
    # A request without a logged vector has no feature at all, and history always has some.
    online = np.full_like(offline, np.nan)
    for at, flight_id in enumerate(requests["flight_id"]):
        found = answers.get(flight_id)
        row = None if found is None else served.row.get(found.prediction_id)
        if row is not None:
            online[at] = served.matrix[row]
    comparison = compare_vectors(
        online,
        offline,
        card.features,
        requests["flight_id"].tolist(),
        (requests["event_timestamp"].astype("datetime64[ms, UTC]").astype("int64")).tolist(),
    )
    streaming_auc, offline_auc = _aucs(requests, answers, LocalModel(deployed.version_dir), offline)
    standing = replayed.scoreboard.standing()
    ahead = sum(answer.ahead_ms > 0 for answer in answers.values())
    admin = Admin(settings)
    report = DemoReport(
        days=period.days,
        auc_streaming=round(streaming_auc, 6),
        auc_offline=round(offline_auc, 6),
        requests=len(requests),
        predictions=standing.predictions,
        missing=int((~requests["flight_id"].isin(list(answers))).sum()),
        duplicates=standing.duplicates,
        dead_letters=sum(sum(admin.end_offsets(t).values()) for t in dead_letter_topics),
        fallbacks=standing.fallbacks,
        triton_inferences=replayed.triton_inferences,
        vectors_identical_share=comparison.identical_share,
        vectors_from_future=max(ahead, served.future()),
        events_per_second=round(replayed.published.events_per_second, 1),
        latency_ms=Percentiles.of(Latencies.of(latencies)),
        freshness_ms=Percentiles.of(replayed.freshness_ms),
    )
    return report, comparison


def _aucs(
    requests: pd.DataFrame, answers: dict[str, Answer], model: LocalModel, offline: Any
) -> tuple[float, float]:
    """AUC of the scores that were published, and of the model on history: the same flights."""
    known = requests["late"].notna() & requests["flight_id"].isin(list(answers))
    chosen = known.to_numpy(dtype=bool)
    late = requests.loc[known, "late"].to_numpy(dtype=bool)
    published = [answers[flight_id].score for flight_id in requests.loc[known, "flight_id"]]
    return auc_score(late, np.array(published)), auc_score(late, model.predict(offline[chosen]))
