"""Every Prometheus metric, in one place; docs/metrics.md lists them for operators.

Names carry the project's prefix and a base unit. Labels are bounded by the definitions: topics,
views, services, reasons; never an entity.
"""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    start_http_server,
)

from streamsvc.features.engine import EngineStats
from streamsvc.monitor.scores import ScoreHistograms

__all__ = [
    "ArchiveMetrics",
    "FeatureMetrics",
    "ParityMetrics",
    "RolloutMetrics",
    "ScoringMetrics",
    "serve_metrics",
]

_LATENCY_BUCKETS = (
    *(0.001, 0.002, 0.004, 0.008, 0.015, 0.025, 0.04, 0.06, 0.1),
    *(0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0),
)


_VARIANT = ("service", "model_version", "variant")

DEFINITIONS_TEXT = "Changes of the definitions that were noticed, by what came of them"


class FeatureMetrics:
    """What a feature worker counts."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.events = self._counter("events", "Records read from event topics", "topic")
        self.dead_letters = self._counter(
            "dead_letters", "Records sent to a dead-letter topic", "topic", "reason"
        )
        self.expired = self._counter(
            "expired_events", "Accepted events older than every window of the view", "view"
        )
        self.rows_written = self._counter(
            "rows_written", "Rows written to the online store", "view"
        )
        self.rows_refused = self._counter(
            "rows_refused", "Rows that the store refused because it held a later position", "view"
        )
        self.updates = self._counter("updates", "Records sent to the topic of updates", "view")
        self.store_refills = self._counter(
            "store_refills", "Times that all rows were written again to a store that had lost some"
        )
        self.commits = self._counter("state_commits", "Complete state commits", "view")
        self.commit_bytes = self._counter(
            "state_commit_bytes", "Bytes appended to changelogs", "view"
        )
        self.trims = self._counter(
            "changelog_trims", "Partitions of changelogs whose beginning was deleted", "view"
        )
        self.trims_failed = self._counter(
            "changelog_trims_failed", "Times that a changelog's partition was not trimmed", "view"
        )
        self.keys = self._gauge("state_keys", "Entities with live tiles", "view")
        self.tiles = self._gauge("state_tiles", "Live tiles", "view")
        self.bytes = self._gauge("state_bytes", "Memory of tiles and keys", "view")
        self.freshness = self._histogram(
            "freshness_seconds", "From a record's Kafka timestamp to its row being readable", "view"
        )
        self.flush = self._histogram("flush_seconds", "The store writes and markers of one cut")
        self.restore = self._histogram("restore_seconds", "Restoring state after an assignment")
        self.restored_tiles = self._counter(
            "restored_tiles", "Tiles read from changelogs to take partitions over", "view"
        )
        self.standby_partitions = self._gauge(
            "standby_partitions", "State partitions of others that are copied here", "view"
        )
        self.standby_tiles = self._gauge("standby_tiles", "Live tiles of these copies", "view")
        self.standby_bytes = self._gauge("standby_bytes", "Memory of these copies", "view")
        self.standby_lag = self._gauge(
            "standby_lag_records",
            "Records that these copies have not read yet",
            "view",
        )
        self.definitions = self._counter("definitions_changes", DEFINITIONS_TEXT, "outcome")
        self.waiting = self._gauge(
            "view_partitions_waiting",
            "State partitions of a new or rebuilt view that have not caught up yet",
            "view",
        )
        self.switch = self._histogram(
            "definitions_switch_seconds",
            "From a noticed change until the views concerned are begun",
        )

        self._expired_seen: dict[str, int] = {}

    def show_state(self, partitions: Sequence[tuple[str, EngineStats]]) -> None:
        """Sizes of the state, summed over the partitions of each view, and what has expired."""
        for view in {view for view, _ in partitions}:
            stats = [s for name, s in partitions if name == view]
            self.keys.labels(view).set(sum(s.keys for s in stats))
            self.tiles.labels(view).set(sum(s.tiles for s in stats))
            self.bytes.labels(view).set(sum(s.bytes for s in stats))
            # The count of a partition starts anew when it comes back after a rebalance.
            expired = sum(s.expired for s in stats)
            self.expired.labels(view).inc(max(0, expired - self._expired_seen.get(view, 0)))
            self._expired_seen[view] = expired

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"streamsvc_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"streamsvc_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(
            f"streamsvc_{name}", text, labels, registry=self.registry, buckets=_LATENCY_BUCKETS
        )


class ScoringMetrics:
    """What a scoring worker counts."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.requests = self._counter("requests", "Records read from request topics", "service")
        self.predictions = self._counter("predictions", "Predictions published", *_VARIANT)
        self.fallbacks = self._counter(
            "fallbacks", "Predictions not made by the model server", *_VARIANT, "kind"
        )
        self.model_errors = self._counter(
            "model_errors", "Requests to which a server that was asked had no answer", *_VARIANT
        )
        self.cache_hits = self._counter(
            "cache_hits", "Requests whose vector's score was known", *_VARIANT
        )
        self.shared_cache_hits = self._counter(
            "shared_cache_hits", "Those whose score was known in the online store only", *_VARIANT
        )
        self.model_seconds = Histogram(
            "streamsvc_model_seconds",
            "How long one batch waited for a variant's model",
            _VARIANT,
            registry=self.registry,
            buckets=_LATENCY_BUCKETS,
        )
        self.scores = ScoreHistograms(
            self.registry, "streamsvc_scores", "Scores of models, in bins of training", _VARIANT
        )
        self.shadow_skipped = self._counter(
            "shadow_skipped", "Requests that a shadow had no time for", "service", "model_version"
        )
        self.late = self._counter(
            "predictions_past_deadline", "Requests answered with the default: too late", "service"
        )
        self.dead_letters = self._counter(
            "dead_letters", "Records sent to a dead-letter topic", "topic", "reason"
        )
        self.missing_rows = self._counter(
            "rows_missing", "Entity rows that the online store did not hold", "service", "view"
        )
        self.feature_cache = self._counter(
            "feature_cache_rows",
            "Rows of a batch view that a batch needed",
            "service",
            "view",
            "outcome",
        )
        self.latency = Histogram(
            "streamsvc_prediction_latency_seconds",
            "From a request's Kafka timestamp to its prediction being acknowledged",
            ["service"],
            registry=self.registry,
            buckets=_LATENCY_BUCKETS,
        )
        self.definitions = self._counter("definitions_changes", DEFINITIONS_TEXT, "outcome")
        self.stage = Histogram(
            "streamsvc_scoring_stage_seconds",
            "One stage of scoring one chunk",
            ["service", "stage"],
            registry=self.registry,
            buckets=_LATENCY_BUCKETS,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"streamsvc_{name}", text, labels, registry=self.registry)


class ArchiveMetrics:
    """What an archive worker counts."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.events = self._counter("events", "Records read from event topics", "topic")
        self.dead_letters = self._counter(
            "dead_letters", "Records that are no events", "topic", "reason"
        )
        self.rows = self._counter("archive_rows", "Events in files", "topic")
        self.files = self._counter("archive_files", "Files written, but for merged ones", "topic")
        self.bytes = self._counter("archive_bytes", "Bytes of those files", "topic")
        self.merged = self._counter(
            "archive_merged_files", "Files that were merged into larger ones", "topic"
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"streamsvc_{name}", text, labels, registry=self.registry)


class RolloutMetrics:
    """What a rollout worker decided, and on what."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.decisions = Counter(
            "streamsvc_rollout_decisions",
            "Decisions about a rollout",
            ["service", "decision"],
            registry=self.registry,
        )
        self.weight = self._gauge(
            "rollout_weight", "Per cent of the entities that are the candidate's", "service"
        )
        self.failures = self._gauge(
            "rollout_failed_checks", "Checks that the running rollout has failed", "service"
        )
        self.labels = self._gauge(
            "rollout_labels",
            "Labels since the running rollout began, by what became of them",
            "service",
            "outcome",
        )
        self.aliases_failed = Counter(
            "streamsvc_rollout_aliases_failed",
            "Times that the registry could not be told what runs",
            registry=self.registry,
        )
        self.triton_versions = Counter(
            "streamsvc_rollout_triton_versions",
            "Versions that Triton was told to load or unload",
            ["model", "action"],
            registry=self.registry,
        )
        self.triton_unreconciled = Counter(
            "streamsvc_rollout_triton_unreconciled",
            "Times that a Triton could not be asked for what it has loaded, or be told",
            ["triton"],
            registry=self.registry,
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"streamsvc_{name}", text, labels, registry=self.registry)


class ParityMetrics:
    """What one run of `streamsvc parity` found."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        self.values = self._gauge(
            "parity_values", "Values of a feature, by outcome", "service", "feature", "outcome"
        )
        self.vectors = self._gauge("parity_vectors", "Vectors compared", "service")
        self.stale = self._gauge("parity_stale_vectors", "Vectors that lacked something", "service")
        self.ahead = self._gauge(
            "parity_ahead_vectors", "Vectors that held something later", "service"
        )
        self.finished = self._gauge(
            "parity_finished_timestamp_seconds", "When the comparison ended", "service"
        )

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"streamsvc_{name}", text, labels, registry=self.registry)


def serve_metrics(registry: CollectorRegistry, port: int) -> int:
    """Serve `/metrics` on a daemon thread; port 0 takes a free one. Returns the port."""
    server, _ = start_http_server(port, registry=registry)
    return int(server.server_port)
