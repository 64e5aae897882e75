"""How a command has Triton take up a version that it has published."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from streamsvc.cli.context import CliContext
    from streamsvc.models.artifact import ModelCard

__all__ = ["load_into_triton"]


def load_into_triton(context: CliContext, card: ModelCard) -> tuple[bool, str]:
    """Load the version into Triton and compare its answers; a server that is away is no failure.

    Raises CheckFailedError if the server computes something else.
    """
    from streamsvc.models.golden import check_golden
    from streamsvc.models.triton_control import TritonControl
    from streamsvc.models.triton_repository import configuring

    if context.settings.model_server == "in-process":
        return False, "The scoring worker runs the model itself: model_server is in-process."
    with TritonControl(context.settings) as triton:
        where = f"Triton at {triton.url}"
        if not triton.is_live():
            return False, f"{where} is not there, so nothing was loaded: `streamsvc up` starts it."
        with configuring(context.repo / context.settings.model_repository):
            triton.load(card.model)
        worst = check_golden(card, triton.predictor(card.model, card.version), where)
    rows = len(card.golden.outputs)
    return True, f"{where} serves it: {rows} golden vectors agree within {worst:.1g}."
