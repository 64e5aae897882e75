"""The services that one scoring process runs: they start, change and go, one by one."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import structlog

from streamsvc.agents.scoring_targets import ScoringTarget, champion_alone
from streamsvc.errors import CheckFailedError, ConfigurationError
from streamsvc.models.rollout import Revision
from streamsvc.transport.app import serve

if TYPE_CHECKING:
    from streamsvc.agents.scoring import ScoringWorker

__all__ = ["ScoringFleet"]

log = structlog.get_logger(__name__)


class ScoringFleet:
    """Runs a worker for each service; when one ends by itself, all of them do."""

    def __init__(self, make: Callable[[ScoringTarget], ScoringWorker], stop: asyncio.Event) -> None:
        self._make = make
        self._stop = stop
        self._workers: dict[str, ScoringWorker] = {}
        self._serving: dict[str, tuple[asyncio.Event, asyncio.Task[None]]] = {}

    async def prepare(self, target: ScoringTarget) -> None:
        """Have a worker ready that `run` will serve.

        One whose candidate cannot run begins with the champion alone. Raises what starting that
        does.
        """
        worker = self._make(target)
        try:
            await worker.start()
        except (CheckFailedError, ConfigurationError) as error:
            if target.candidate is None:
                raise
            name, version = target.service.name, target.candidate.version
            log.error("candidate_refused", service=name, version=version, error=str(error))
            worker = self._make(champion_alone(target))
            await worker.start()
        self._workers[target.service.name] = worker

    @property
    def targets(self) -> Mapping[str, ScoringTarget]:
        """Service -> what is being served."""
        return {name: worker.servings.target for name, worker in self._workers.items()}

    async def apply(self, revision: Revision) -> None:
        """Run another revision of a service; what ran before goes on if this raises."""
        await self._workers[revision.service].servings.apply(revision)

    async def take_up(self, target: ScoringTarget) -> None:
        """Run a target from now on, in place of what ran under its name.

        Raises what starting it does; what ran before then goes on.
        """
        name = target.service.name
        held = self._workers.get(name)
        if held is not None and _reads_alike(held.servings.target, target):
            await held.servings.take_up(target)
            return
        worker = self._make(target)
        await worker.start()
        if held is not None:
            await self._end(name)
        self._workers[name] = worker
        self._serve(name)

    async def leave(self, services: frozenset[str]) -> None:
        """End all services but these, after what they have taken in."""
        for name in [name for name in self._workers if name not in services]:
            await self._end(name)
            log.info("service_removed", service=name)

    async def run(self, beside: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Serve until told to stop, or until one worker ends. Raises the first error."""
        for name in self._workers:
            self._serve(name)
        others = [asyncio.create_task(each) for each in beside]
        for task in others:
            task.add_done_callback(lambda _: self._stop.set())
        await self._stop.wait()
        for task in others:
            task.cancel()
        for stop, _ in self._serving.values():
            stop.set()
        serving = [task for _, task in self._serving.values()]
        await asyncio.wait([*serving, *others])
        for task in (*serving, *others):
            if not task.cancelled():
                task.result()

    def _serve(self, name: str) -> None:
        stop = asyncio.Event()
        task = asyncio.create_task(serve(self._workers[name].app, stop))
        self._serving[name] = stop, task

        def ended(_: object) -> None:
            if name in self._serving and self._serving[name][1] is task:
                self._stop.set()

        task.add_done_callback(ended)

    async def _end(self, name: str) -> None:
        stop, task = self._serving.pop(name)
        del self._workers[name]
        stop.set()
        await task
        # Whoever served last has taken its signal handlers with it.
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stop.set)


def _reads_alike(one: ScoringTarget, other: ScoringTarget) -> bool:
    """Whether two targets take in and acknowledge requests in the same way."""
    return (one.route.requests, one.route.delivery) == (other.route.requests, other.route.delivery)
