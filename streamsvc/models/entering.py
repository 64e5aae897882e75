"""How a version gets its number: reserved in the registry, then on disk, then entered.

Cut short at any point, it leaves a number that nobody uses, or a version on disk that the registry
takes in with the next one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from streamsvc.models.artifact import ModelCard, load_card
from streamsvc.models.triton_repository import next_version

if TYPE_CHECKING:
    from streamsvc.models.registry import Registry

__all__ = ["enter"]


def enter(
    card: ModelCard,
    repository: Path,
    registry: Registry | None,
    publish: Callable[[ModelCard], Path],
) -> tuple[ModelCard, Path, str | None]:
    """Publish a version under its model's next number, and register it where there is a registry.

    Gives the card as published, its directory, and the alias that the registry gave it.
    """
    if registry is None:
        number = next_version(repository, card.model)
    else:
        number = registry.reserve(card.model, repository)
    try:
        version_dir = publish(msgspec.structs.replace(card, version=number))
    except BaseException:
        if registry is not None:
            registry.release(card.model, number)
        raise
    published = load_card(version_dir)
    alias = None if registry is None else registry.add(published, version_dir)
    return published, version_dir, alias
