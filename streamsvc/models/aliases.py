"""Aliases of the registry follow the rollouts: `champion` runs, `challenger` is being tried."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from streamsvc.models.registry import CHALLENGER, CHAMPION
from streamsvc.models.rollout import Revision

if TYPE_CHECKING:
    from streamsvc.models.registry import Registry

__all__ = ["follow", "moves"]


def moves(
    revisions: Sequence[Revision], held: Mapping[str, int], known: Collection[int]
) -> dict[str, int | None]:
    """Alias -> the version that it has to move to, None to take it away; empty if all is well.

    `revisions` are those of one service that hold, the oldest first, at least one. A challenger
    that has lost, or is champion now, is none; one that has not been tried stays. Versions that the
    registry does not know are left out.
    """
    now = revisions[-1]
    wanted: dict[str, int | None] = {CHAMPION: now.champion}
    had_turn = {v for each in revisions if each.model == now.model for v in each.versions}
    if now.candidate is not None:
        wanted[CHALLENGER] = now.candidate.version
    elif held.get(CHALLENGER) in had_turn:
        wanted[CHALLENGER] = None
    return {
        alias: version
        for alias, version in wanted.items()
        if version != held.get(alias) and (version is None or version in known)
    }


def follow(registry: Registry, model: str, revisions: Sequence[Revision]) -> dict[str, int | None]:
    """Move the aliases of a model to where the newest revision of its service wants them.

    Returns what was moved. Raises what the registry does. Blocking.
    """
    versions = registry.versions(model)
    held = {alias: each.version for each in versions for alias in each.aliases}
    found = moves(revisions, held, [each.version for each in versions])
    for alias, version in found.items():
        if version is None:
            registry.drop_alias(model, alias)
        else:
            registry.set_alias(model, alias, version)
    return found
