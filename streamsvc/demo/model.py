"""Training on what came before the replay, and loading the model where it will be asked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from streamsvc.definitions.plan import Route
from streamsvc.demo.flights import LABELS
from streamsvc.demo.warm_up import Period
from streamsvc.models.artifact import ModelCard
from streamsvc.models.golden import check_golden
from streamsvc.models.train import TrainingJob, train
from streamsvc.models.triton_control import TritonControl
from streamsvc.models.triton_repository import configuring
from streamsvc.settings import Settings

__all__ = ["Deployed", "inference_count", "train_and_deploy"]


@dataclass(frozen=True, slots=True)
class Deployed:
    """A version that answers requests."""

    card: ModelCard
    version_dir: Path
    where: str


def train_and_deploy(
    settings: Settings, repo: Path, service: str, route: Route, period: Period
) -> Deployed:
    """Fit to the labels before the replay, hold out those of the replay, and load the version.

    Raises CheckFailedError if Triton answers the golden vectors otherwise than the booster did.
    """
    job = TrainingJob(
        service=service,
        labels=repo / "data" / LABELS,
        label_column="late",
        model=route.model,
        threshold=route.threshold,
        until_ms=period.end_ms,
        test_from_ms=period.start_ms,
    )
    trained = train(repo, repo / settings.model_repository, job)
    card = trained.card
    if settings.model_server == "in-process":
        return Deployed(card, trained.version_dir, "run by the scoring worker itself")
    with TritonControl(settings) as triton:
        where = f"Triton at {triton.url}"
        with configuring(repo / settings.model_repository):
            triton.load(card.model)
        check_golden(card, triton.predictor(card.model, card.version), where)
    rows = len(card.golden.outputs)
    return Deployed(card, trained.version_dir, f"{where} agrees on {rows} golden vectors")


def inference_count(settings: Settings, model: str) -> int:
    """Triton's own count of the rows it has answered; 0 where it runs no models."""
    if settings.model_server == "in-process":
        return 0
    with TritonControl(settings) as triton:
        return triton.inference_count(model)
