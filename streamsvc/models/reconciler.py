"""Triton has loaded what runs, and nothing else: wanted versions against loaded ones.

A server that was restarted has forgotten what it was told, a version that is tried must be there
before traffic comes, and one that nobody asks any more takes memory. What is wanted comes from the
rollouts; what the server may load is written in `config.pbtxt`, so that a restart finds it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from streamsvc.errors import CheckFailedError, ConfigurationError
from streamsvc.models.artifact import load_card, served_versions
from streamsvc.models.files import check_files
from streamsvc.models.golden import check_golden
from streamsvc.models.rollout_log import Applied, RolloutLog
from streamsvc.models.triton_control import TritonControl, TritonRefusedError
from streamsvc.models.triton_repository import (
    configured_versions,
    configuring,
    serve,
    serve_besides,
)
from streamsvc.settings import Settings

__all__ = ["DRAIN_MS", "Change", "Reconciler", "make_ready", "wanted_versions"]

DRAIN_MS = 600_000
"""For so long after a revision a version before it is kept for workers that have not applied it. A
worker that was killed never says that it left."""

_FAILED = re.compile(r"version (\d+) is at UNAVAILABLE state")
"""What Triton says of each version that kept a load from succeeding."""
_IGNORED = "Triton does not serve it beside the others"

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
    version that is newer than the champion and has never run, because it waits for its turn. Of a
    service that has no record every version is wanted: each worker runs the one that was the newest
    when it started.
    """
    wanted: set[int] = set()
    for service in services:
        now = log.current(service)
        if now is None or not now.concerns(model):
            return frozenset(on_disk)
        had_turn = {
            version
            for revision in log.revisions[service]
            if revision.concerns(model)
            for version in revision.versions
        }
        wanted.update(now.versions)
        wanted.update(v for v in on_disk if v > now.champion and v not in had_turn)
        if now.previous is not None:
            wanted.add(now.previous)
        if now_ms - now.at_ms < DRAIN_MS:
            for said in log.applied.get(service, {}).values():
                wanted.update(_running(said))
    return frozenset(wanted) & frozenset(on_disk)


def _running(said: Applied) -> set[int]:
    return {said.champion} | (set() if said.candidate is None else {said.candidate})


def make_ready(settings: Settings, repository: Path, model: str, versions: Collection[int]) -> None:
    """Have every Triton load these versions beside what it has, before anybody asks them.

    Else each worker that meets one has the whole model loaded again. Raises CheckFailedError where
    a Triton cannot run one as it should, with the reason; UnavailableError where it is away.
    Blocking.
    """
    with configuring(repository):
        serve_besides(repository, model, versions)
    if settings.model_server != "triton":
        return
    for address in settings.triton_addresses:
        with TritonControl(settings.model_copy(update={"triton_grpc_url": address})) as triton:
            ready = triton.ready_versions(model)
            if {*versions} <= {*ready}:
                continue
            wanted = {*configured_versions(repository / model), *ready}
            for change in Reconciler(triton, repository).reconcile({model: wanted}):
                if change.version in versions and change.action == "refused":
                    raise CheckFailedError(
                        f"Triton at {address} cannot run version {change.version} of {model}: "
                        f"{change.why}"
                    )


class Reconciler:
    """Makes one server's models what they should be. Blocking; one thread at a time.

    What the server refuses is not asked again until something else is wanted or it was restarted.
    """

    def __init__(
        self,
        triton: TritonControl,
        repository: Path,
        linger_s: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A version is unloaded when nobody has wanted it for `linger_s`: whoever runs this again
        and again may see one that was made ready before the rollout that wants it was written."""
        self._triton = triton
        self._repository = repository
        self._linger_s = linger_s
        self._clock = clock
        self._unwanted: dict[tuple[str, int], float] = {}
        """Model and version -> since when nobody wants what is there."""
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
        with configuring(self._repository):
            before = frozenset(self._triton.ready_versions(model))
            configured = frozenset(configured_versions(model_dir))
            wanted |= self._lingering(model, (configured | before) - wanted)
            wanted &= frozenset(served_versions(model_dir))
            if configured == wanted == before or self._settled.get(model) == (wanted, before):
                return []
            refused = self._serve(model, wanted, before)
            after = frozenset(self._triton.ready_versions(model))
            self._settled[model] = wanted, after
        changes = [Change(model, v, "unloaded") for v in sorted(before - after)]
        for version in sorted(wanted - before):
            wrong = refused.get(version) or self._wrong(model, version)
            changes.append(Change(model, version, "refused" if wrong else "loaded", wrong))
        return changes

    def _serve(self, model: str, wanted: frozenset[int], before: frozenset[int]) -> dict[int, str]:
        """Have the server serve these versions; those that it cannot run, and why.

        They are not left in the configuration: Triton loads all versions of one or none, after a
        restart the champion neither. And it dies where a load that fails has another one behind it
        (docs/decisions/125), so what is seen to be damaged is not even tried.
        """
        refused = {v: why for v in wanted - before if (why := self._damage(model, v))}
        for last in (False, True):
            chosen = wanted - refused.keys()
            serve(self._repository, model, chosen)
            said = self._refusal(self._triton.load if chosen else self._triton.unload, model)
            new = chosen - frozenset(self._triton.ready_versions(model))
            named = new & {int(number) for number in _FAILED.findall(said)}
            refused |= dict.fromkeys(new if last else named or new, said or _IGNORED)
            if not new:
                break
        return refused

    def _damage(self, model: str, version: int) -> str:
        """What is wrong with the files of a version; nothing, mostly."""
        version_dir = self._repository / model / str(version)
        try:
            check_files(version_dir, load_card(version_dir).files)
        except ConfigurationError as error:
            return str(error)
        return ""

    def _lingering(self, model: str, unwanted: frozenset[int]) -> frozenset[int]:
        """Which of these have not been unwanted for long."""
        now = self._clock()
        since = {(model, v): self._unwanted.get((model, v), now) for v in unwanted}
        self._unwanted = {k: t for k, t in self._unwanted.items() if k[0] != model} | since
        return frozenset(v for (_, v), t in since.items() if now - t < self._linger_s)

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
