"""What one scored batch adds to the metrics."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from streamsvc.monitor.bulk import observe_many
from streamsvc.monitor.metrics import ScoringMetrics
from streamsvc.scoring.pipeline import Scored

__all__ = ["count_batch"]


def count_batch(
    metrics: ScoringMetrics,
    service: str,
    model_version: str,
    rungs: Sequence[str | None],
    scored: Scored,
    now_ms: int,
    *,
    dead_letters_sent: bool,
) -> None:
    """Count a batch whose predictions are acknowledged; `rungs` names the fallbacks by step."""
    rejected = 0
    for chunk, rejects in scored.rejects:
        rejected += len(rejects)
        if dead_letters_sent:
            for reject in rejects:
                metrics.dead_letters.labels(chunk.topic, reject.reason).inc()
    n = len(scored.requests)
    metrics.requests.labels(service).inc(n + rejected)
    if not n:
        return
    metrics.predictions.labels(service, model_version).inc(n)
    for step, count in enumerate(np.bincount(scored.scores.step).tolist()):
        if count and (kind := rungs[step]) is not None:
            metrics.fallbacks.labels(service, kind).inc(count)
    metrics.late.labels(service).inc(int(np.count_nonzero(scored.scores.late)))
    for view, missing in scored.vectors.missing.items():
        metrics.missing_rows.labels(service, view).inc(missing)
    latency_s = (now_ms - scored.requests.received_ms) / 1e3
    observe_many(metrics.latency.labels(service), np.maximum(latency_s, 0.0))
    for stage, ms in scored.stage_ms.items():
        metrics.stage.labels(service, stage).observe(ms / 1e3)
