"""A scoring process follows the rollout topic: it runs what is wanted, and says what it runs.

What runs is compared with what is wanted again and again, whatever has changed one of them: a
revision, a definition, a service that came or went. A newer revision does not wait for one that is
being applied: an undo takes effect while the version that it is about is still being loaded.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import msgspec
import structlog

from streamsvc.agents.rollouts import add_chunk, read_rollouts, say_applied
from streamsvc.agents.scoring_targets import ScoringTarget
from streamsvc.agents.topic_plan import rollout_topic
from streamsvc.errors import StreamsvcError
from streamsvc.models.rollout import Revision
from streamsvc.models.rollout_log import Applied, RolloutLog
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.reader import follow

__all__ = ["RolloutWatch", "Runs", "worker_name"]

log = structlog.get_logger(__name__)

AGAIN_S = 10.0
"""What was refused is tried again: its files may have been missing that are there now."""
PAUSE_S = 1.0
MAX_RECORDS = 1_000


class Runs(Protocol):
    """What runs services."""

    @property
    def targets(self) -> Mapping[str, ScoringTarget]:
        """Service -> what is being served."""
        ...

    async def apply(self, revision: Revision) -> None:
        """Run a revision. Whatever it raises, what ran before goes on."""
        ...


@dataclass(frozen=True, slots=True)
class _Refusal:
    revision: int
    why: str
    again_at: float
    """On the loop's clock."""


def worker_name(instance_id: str | None) -> str:
    """How a process is named to people: its instance id, else its host and process id."""
    return instance_id or f"{socket.gethostname()}:{os.getpid()}"


class RolloutWatch:
    """Belongs to one event loop."""

    def __init__(self, settings: Settings, project: str, instance_id: str | None) -> None:
        self._settings = settings
        self._project = project
        self._worker = worker_name(instance_id)
        self._log = RolloutLog()
        self._applying: dict[str, tuple[int, asyncio.Task[None]]] = {}
        """Service -> revision that is being applied."""
        self._refused: dict[str, _Refusal] = {}
        self._said: dict[str, Applied] = {}
        self._saying: asyncio.Task[None] | None = None

    def wanted(self, service: str) -> Revision | None:
        """What shall run for a service; None where nobody has said."""
        return self._log.current(service)

    async def read(self) -> None:
        """Learn what the topic says now."""
        self._log = await read_rollouts(self._settings, self._project)

    async def run(self, runs: Runs) -> None:
        """Follow the topic until cancelled; then take back what was said."""
        told = ""
        try:
            while True:
                try:
                    await self._follow(runs)
                except StreamsvcError as error:
                    if str(error) != told:
                        told = str(error)
                        log.warning("rollouts_unreadable", error=told)
                await asyncio.sleep(PAUSE_S)
        finally:
            tasks = [task for _, task in self._applying.values()]
            tasks += [] if self._saying is None else [self._saying]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            with suppress(StreamsvcError):  # status tells who left without a word
                left = list(self._said.values())
                await say_applied(self._settings, self._project, left=left)

    async def _follow(self, runs: Runs) -> None:
        topic = rollout_topic(self._settings, self._project).name
        starts = await asyncio.to_thread(Admin(self._settings).start_offsets, topic)
        wanted = {0: max(starts[0], self._log.position)}
        async for chunk in follow(self._settings, topic, wanted, MAX_RECORDS):
            if chunk is not None:
                add_chunk(self._log, chunk)
            self._look(runs)

    def _look(self, runs: Runs) -> None:
        """See that what is wanted runs, and that what runs has been said."""
        targets = runs.targets
        for target in targets.values():
            wanted = self._wanted_of(target)
            if wanted.revision != target.revision.revision:
                self._want(runs, wanted)
        if self._saying is None or self._saying.done():
            new = [said for target in targets.values() if (said := self._news(target))]
            left = [said for name, said in self._said.items() if name not in targets]
            if new or left:
                self._saying = asyncio.create_task(self._say(new, left))

    def _wanted_of(self, target: ScoringTarget) -> Revision:
        """What shall run; what runs where nobody has said."""
        wanted = self.wanted(target.service.name)
        concerned = wanted is not None and wanted.concerns(target.route.model)
        return wanted if wanted is not None and concerned else target.revision

    def _want(self, runs: Runs, wanted: Revision) -> None:
        number, applying = self._applying.get(wanted.service, (0, None))
        if applying is not None and not applying.done():
            if number == wanted.revision:
                return
            applying.cancel()
        refusal = self._refused.get(wanted.service)
        now = asyncio.get_running_loop().time()
        if refusal is None or refusal.revision != wanted.revision or now >= refusal.again_at:
            task = asyncio.create_task(self._apply(runs, wanted))
            self._applying[wanted.service] = wanted.revision, task

    async def _apply(self, runs: Runs, wanted: Revision) -> None:
        service, number = wanted.service, wanted.revision
        try:
            await runs.apply(wanted)
        except Exception as error:  # noqa: BLE001 - whatever a broken file does to its library
            why = str(error) if isinstance(error, StreamsvcError) else repr(error)
            before = self._refused.get(service)
            if before is None or (before.revision, before.why) != (number, why):
                log.error("revision_refused", service=service, revision=number, error=why)
            again_at = asyncio.get_running_loop().time() + AGAIN_S
            self._refused[service] = _Refusal(number, why, again_at)
        else:
            self._refused.pop(service, None)
            log.info(
                "revision_applied",
                service=service,
                revision=number,
                action=wanted.action,
                versions=wanted.versions,
            )
        self._look(runs)

    def _news(self, target: ScoringTarget) -> Applied | None:
        """What is to be said of a service; None while nothing is, or it has been."""
        service, running = target.service.name, target.revision.revision
        refusal = self._refused.get(service)
        newest = self._wanted_of(target).revision
        why = refusal.why if refusal is not None and refusal.revision == newest else None
        if newest != running and why is None:
            return None  # being applied
        saying = Applied(
            service=service,
            worker=self._worker,
            revision=newest,
            at_ms=time.time_ns() // 1_000_000,
            running=running,
            champion=target.champion.version,
            candidate=None if target.candidate is None else target.candidate.version,
            refused=why,
        )
        said = self._said.get(service)
        same = said is not None and msgspec.structs.replace(saying, at_ms=said.at_ms) == said
        return None if same else saying

    async def _say(self, new: list[Applied], left: list[Applied]) -> None:
        try:
            await say_applied(self._settings, self._project, new, left)
        except StreamsvcError as error:
            log.warning("revision_not_acknowledged", error=str(error))
            await asyncio.sleep(PAUSE_S)
            return
        for said in left:
            del self._said[said.service]
        self._said |= {said.service: said for said in new}
