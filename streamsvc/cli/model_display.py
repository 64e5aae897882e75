"""Model versions on a terminal."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamsvc.models.artifact import ModelCard
    from streamsvc.models.registry import Registered

__all__ = ["day_text", "metrics_text", "show_version"]

_SHOWN_METRICS = ("auc", "training_auc", "training_accuracy", "training_rmse", "log_loss")


def show_version(
    console: Any, item: Registered, card: ModelCard, files: str, fits: list[str]
) -> None:
    """All of one version; `files` and `fits` are what checks of it found."""
    from rich.table import Table

    from streamsvc.models.registry import definitions_hash

    table = Table(box=None, show_header=False)
    digest = definitions_hash(card)
    for name, value in {
        "model": f"{card.model} version {card.version}",
        "alias": ", ".join(item.aliases) or "none",
        "registered": day_text(item.created_ms),
        "kind": f"{card.kind}, {card.task}",
        "service": f"{card.service}, definitions {digest[:12] or 'not recorded'}",
        "trained on": f"{card.rows:,} rows, {day_text(card.trained_from_ms)} to "
        f"{day_text(card.trained_until_ms)}",
        "metrics": metrics_text(card.metrics, every=True),
        "golden": f"{len(card.golden.outputs)} vectors",
        "files": files,
        "features": "match the FeatureService" if not fits else "; ".join(fits),
    }.items():
        table.add_row(name, value)
    console.print(table)
    features = Table("feature", "type", "missing in training", "median", box=None)
    types = card.feature_types or [""] * len(card.features)
    for name, type_ in zip(card.features, types, strict=True):
        histogram = card.histograms[name]
        total = sum(histogram.counts) + histogram.missing
        middle = len(histogram.edges) // 2
        median = f"{histogram.edges[middle]:.4g}" if histogram.edges else ""
        features.add_row(name, type_, f"{histogram.missing / max(total, 1):.1%}", median)
    console.print(features)


def metrics_text(metrics: dict[str, float], *, every: bool = False) -> str:
    """The metrics that stand in a list, or all of them."""
    names = sorted(metrics) if every else [name for name in _SHOWN_METRICS if name in metrics]
    return ", ".join(f"{name} {metrics[name]:.4g}" for name in names)


def day_text(instant_ms: int) -> str:
    """Date and time, UTC."""
    return datetime.fromtimestamp(instant_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M")
