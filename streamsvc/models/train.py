"""From labels to a model in the repository."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import ModelCard
from streamsvc.models.booster import Fitted, fit
from streamsvc.models.booster_dask import fit_on_cluster
from streamsvc.models.device import Device
from streamsvc.models.entering import enter
from streamsvc.models.golden import choose_golden
from streamsvc.models.histogram import histogram
from streamsvc.models.metrics import auc, log_loss
from streamsvc.models.split import Split, split_by_time
from streamsvc.models.training_data import TIME_COLUMN, Examples, read_examples, read_labels
from streamsvc.models.triton_repository import next_version, publish

if TYPE_CHECKING:
    import pandas as pd

    from streamsvc.models.registry import Registry

__all__ = ["Trained", "TrainingJob", "fit_and_publish", "labelled_rows", "train"]

THREADS = 2
HISTOGRAM_ROWS = 1_000_000


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train. Instants are milliseconds since the epoch."""

    service: str
    labels: Path
    label_column: str
    model: str
    threshold: float = 0.5
    until_ms: int | None = None
    """Labels from this instant on are not used at all."""
    test_from_ms: int | None = None
    """Where the held-out part starts; by default it is the last tenth of the rows."""
    device: Device = "cpu"
    """Where a set that fits into memory is boosted."""
    scheduler: str | None = None
    """Address of the Dask cluster whose workers boost it instead."""
    memory_mb: int = 2_048
    """Megabytes that the features may take; a larger set is kept in the temporary directory."""
    seed: int = 0
    feature_types: Mapping[str, str] = field(default_factory=dict)
    """Feature -> type in the FeatureService; empty where it is not known."""
    meanings: Mapping[str, str] = field(default_factory=dict)
    """Feature -> digest of its definition (see `definitions.meaning`)."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A published version."""

    card: ModelCard
    version_dir: Path
    gain: dict[str, float]
    """Share of the booster's total gain, by feature."""
    boosted_on: str
    """`cpu`, `cuda`, or how many Dask workers."""
    alias: str | None = None
    """What the registry calls it, where there is one."""


def train(
    repo: Path, repository: Path, job: TrainingJob, registry: Registry | None = None
) -> Trained:
    """Compute the features of the labelled rows, fit, judge, publish and register a new version.

    `repo` is the Feast repo, `repository` Triton's model repository. Raises ConfigurationError for
    labels, a service or features that cannot be used.
    """
    next_version(repository, job.model)  # a bad name should not cost a training first
    labels = labelled_rows(job)
    with tempfile.TemporaryDirectory(prefix="streamsvc-train-") as folder:
        examples = read_examples(
            repo, job.service, labels, job.label_column, job.memory_mb, Path(folder)
        )
        return fit_and_publish(examples, repository, job, registry)


def labelled_rows(job: TrainingJob) -> pd.DataFrame:
    """The labels of a job. Raises ConfigurationError if there are none."""
    labels = read_labels(job.labels, job.label_column)
    if job.until_ms is not None:
        instants = labels[TIME_COLUMN].dt.as_unit("ms").astype(np.int64)
        labels = labels[instants < job.until_ms].reset_index(drop=True)
    if labels.empty:
        raise ConfigurationError(f"No labelled rows in {job.labels} before the given date")
    return labels


def fit_and_publish(
    examples: Examples, repository: Path, job: TrainingJob, registry: Registry | None = None
) -> Trained:
    """Fit a booster to the examples, judge it on the held-out part, and publish both."""
    split = split_by_time(examples.event_ms, job.test_from_ms)
    for name in ("train", "validation"):
        if len(np.unique(examples.labels[getattr(split, name)])) < 2:
            raise ConfigurationError(
                f"Every label of the {name} part is the same: nothing can be learned from that"
            )
    fitted = _fit(examples, split, job)
    card = _card(examples, split, fitted, job)
    card, version_dir, alias = enter(
        card, repository, registry, lambda numbered: publish(repository, numbered, fitted.raw)
    )
    return Trained(card, version_dir, fitted.gain, fitted.where, alias)


def _fit(examples: Examples, split: Split, job: TrainingJob) -> Fitted:
    train, validation = (
        (examples.rows(part), examples.labels[part]) for part in (split.train, split.validation)
    )
    if job.scheduler is not None:
        return fit_on_cluster(
            job.scheduler, train, validation, examples.features, seed=job.seed, threads=THREADS
        )
    return fit(
        train,
        validation,
        examples.features,
        seed=job.seed,
        threads=THREADS,
        device=job.device,
        pages=examples.pages,
    )


def _card(examples: Examples, split: Split, fitted: Fitted, job: TrainingJob) -> ModelCard:
    rows = examples.rows(split.train)
    # Of a large set every so-manieth row: a histogram of a million is as good.
    sample = np.array(rows[:: max(1, len(rows) // HISTOGRAM_ROWS)])
    event_ms = examples.event_ms[split.train]
    return ModelCard(
        model=job.model,
        version=0,  # known when it is published
        service=job.service,
        features=examples.features,
        trained_from_ms=int(event_ms[0]),
        trained_until_ms=int(event_ms[-1]),
        rows=len(rows),
        metrics=_metrics(examples, split, fitted),
        histograms={name: histogram(sample[:, i]) for i, name in enumerate(examples.features)},
        score=histogram(fitted.predict(sample)),
        golden=choose_golden(examples.rows(split.test), fitted.predict, seed=job.seed),
        threshold=job.threshold,
        feature_types=[job.feature_types[f] for f in examples.features if job.feature_types],
        definitions={f: job.meanings[f] for f in examples.features if job.meanings},
    )


def _metrics(examples: Examples, split: Split, fitted: Fitted) -> dict[str, float]:
    scores = fitted.predict(examples.rows(split.test))
    labels = examples.labels[split.test]
    held_out = fitted.predict(examples.rows(split.validation))
    return {
        "auc": auc(labels, scores),
        "log_loss": log_loss(labels, scores),
        "positive_share": float(labels.mean()),
        "test_rows": float(len(labels)),
        "validation_auc": auc(examples.labels[split.validation], held_out),
        "validation_rows": float(len(split.validation)),
        "rounds": float(fitted.rounds),
    }
