"""What one scored batch adds to the metrics."""

from __future__ import annotations

import numpy as np

from streamsvc.monitor.bulk import observe_many
from streamsvc.monitor.metrics import ScoringMetrics
from streamsvc.scoring.pipeline import Answers, Scored

__all__ = ["count_answers", "count_batch"]


def count_batch(
    metrics: ScoringMetrics,
    service: str,
    scored: Scored,
    now_ms: int,
    *,
    dead_letters_sent: bool,
) -> None:
    """Count a batch whose predictions are acknowledged."""
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
    for view, missing in scored.asked.vectors.missing.items():
        metrics.missing_rows.labels(service, view).inc(missing)
    for view, (known, rows) in scored.asked.vectors.kept.items():
        metrics.feature_cache.labels(service, view, "hit").inc(known)
        metrics.feature_cache.labels(service, view, "miss").inc(rows - known)
    latency_s = (now_ms - scored.requests.received_ms) / 1e3
    observe_many(metrics.latency.labels(service), np.maximum(latency_s, 0.0))
    for stage, ms in scored.asked.stage_ms.items():
        metrics.stage.labels(service, stage).observe(ms / 1e3)
    for answers in scored.answers:
        _count_predictions(metrics, service, answers)
        count_answers(metrics, service, answers)
        metrics.stage.labels(service, "model").observe(answers.model_ms / 1e3)


def _count_predictions(metrics: ScoringMetrics, service: str, answers: Answers) -> None:
    variant, scores = answers.variant, answers.scores
    labels = service, variant.version, variant.name
    metrics.predictions.labels(*labels).inc(len(scores.values))
    for step, count in enumerate(np.bincount(scores.step).tolist()):
        if count and (kind := variant.ladder.names[step]) is not None:
            metrics.fallbacks.labels(*labels, kind).inc(count)
    metrics.late.labels(service).inc(int(np.count_nonzero(scores.late)))


def count_answers(metrics: ScoringMetrics, service: str, answers: Answers) -> None:
    """Count what a variant's model did, whether its scores were published or not."""
    variant, scores = answers.variant, answers.scores
    labels = service, variant.version, variant.name
    metrics.model_seconds.labels(*labels).observe(answers.model_ms / 1e3)
    metrics.model_errors.labels(*labels).inc(int(np.count_nonzero(scores.failed)))
    metrics.cache_hits.labels(*labels).inc(scores.cached)
    metrics.shared_cache_hits.labels(*labels).inc(scores.shared)
    by_model = scores.values[scores.step < len(variant.ladder.rungs)].max(axis=1)
    metrics.scores.observe(labels, variant.card.score.edges, by_model)
