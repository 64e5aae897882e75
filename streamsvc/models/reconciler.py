"""Triton has loaded what runs, and nothing else: wanted versions against loaded ones.

A server that was restarted has forgotten what it was told, a version that is tried must be there
before traffic comes, and one that nobody asks any more takes memory. What is wanted comes from the
rollouts; what the server may load is written in `config.pbtxt`, so that a restart finds it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from streamsvc.errors import CheckFailedError
from streamsvc.models.artifact import load_card, served_versions
from streamsvc.models.golden import check_golden
from streamsvc.models.rollout_log import Applied, RolloutLog
from streamsvc.models.triton_control import TritonControl, TritonRefusedError
from streamsvc.models.triton_repository import configured_versions, serve

__all__ = ["DRAIN_MS", "Change", "Reconciler", "wanted_versions"]

DRAIN_MS = 600_000
"""For so long after a revision a version before it is kept for workers that have not applied it. A
worker that was killed never says that it left."""

Action: TypeAlias = Literal["loaded", "unloaded", "refused"]


@dataclass(frozen=True, slots=True)
class Change:
    """What was done about one version."""

    model: str
    version: int
    action: Action
    why: str = ""
    """Of a refused version: what the server, or its golden vectors, said."""


def wanted_versions(
    model: str, services: Iterable[str], on_disk: Collection[int], log: RolloutLog, now_ms: int
) -> frozenset[int]:
    """The versions of one model that its services need, of those on disk.

    For each service the champion, the candidate, and the champion before, to which `undo` goes back
    within a second; what workers still run that have not applied the newest revision; and every
    version that is newer than the champion, because it waits for its turn. Of a service that has no
    record every version is wanted: each worker runs the one that was the newest when it started.
    """
    wanted: set[int] = set()
    for service in services:
        now = log.current(service)
        if now is None or not now.concerns(model):
            return frozenset(on_disk)
        wanted.update(now.versions)
        wanted.update(version for version in on_disk if version > now.champion)
        if now.previous is not None:
            wanted.add(now.previous)
        if now_ms - now.at_ms < DRAIN_MS:
            for said in log.applied.get(service, {}).values():
                wanted.update(_running(said))
    return frozenset(wanted) & frozenset(on_disk)


def _running(said: Applied) -> set[int]:
    return {said.champion} | (set() if said.candidate is None else {said.candidate})


class Reconciler:
    """Makes one server's models what they should be. Blocking; one thread at a time.

    What the server refuses is not asked again until something else is wanted or it was restarted.
    """

    def __init__(self, triton: TritonControl, repository: Path) -> None:
        self._triton = triton
        self._repository = repository
        self._settled: dict[str, tuple[frozenset[int], frozenset[int]]] = {}
        """Model -> what was wanted, and what was loaded then."""

    def reconcile(self, wanted: Mapping[str, Collection[int]]) -> list[Change]:
        """Load what is missing, check its golden vectors, and unload what nobody wants.

        Triton answers the requests that it has before it unloads a version. Raises UnavailableError
        if it is not there.
        """
        return [
            change
            for model, versions in wanted.items()
            for change in self._reconcile(model, frozenset(versions))
        ]

    def _reconcile(self, model: str, wanted: frozenset[int]) -> list[Change]:
        model_dir = self._repository / model
        before = frozenset(self._triton.ready_versions(model))
        configured = frozenset(configured_versions(model_dir))
        if configured == wanted and (
            before == wanted or self._settled.get(model) == (wanted, before)
        ):
            return []
        if configured != wanted:
            serve(self._repository, model, wanted & frozenset(served_versions(model_dir)))
        refusal = self._load(model) if wanted else self._unload(model)
        after = frozenset(self._triton.ready_versions(model))
        self._settled[model] = wanted, after
        changes = [Change(model, v, "unloaded") for v in sorted(before - after)]
        for version in sorted(wanted - before):
            wrong = self._wrong(model, version) if version in after else refusal
            changes.append(Change(model, version, "refused" if wrong else "loaded", wrong))
        return changes

    def _load(self, model: str) -> str:
        """Why Triton would not load some version; a sentence for the others, which it loaded."""
        return (
            self._refusal(self._triton.load, model) or "Triton does not serve it beside the others"
        )

    def _unload(self, model: str) -> str:
        return self._refusal(self._triton.unload, model)

    def _refusal(self, call: Callable[[str], None], model: str) -> str:
        try:
            call(model)
        except TritonRefusedError as error:
            return str(error)
        return ""

    def _wrong(self, model: str, version: int) -> str:
        card = load_card(self._repository / model / str(version))
        try:
            check_golden(
                card, self._triton.predictor(model, version), f"Triton at {self._triton.url}"
            )
        except (CheckFailedError, TritonRefusedError) as error:
            return str(error)
        return ""
