"""What a service's batches are answered by, and how it goes over to something else."""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from pathlib import Path

from streamsvc.agents.scoring_targets import ScoringTarget, retarget
from streamsvc.agents.serving import Serving
from streamsvc.models.rollout import Revision
from streamsvc.scoring.loaded import LoadedVersions
from streamsvc.settings import Settings

__all__ = ["Servings"]

START_DEADLINE_MS, SWITCH_DEADLINE_MS = 60_000, 1_000
"""Of the request that warms a serving up."""


class Servings:
    """One serving after another; the versions of an earlier one go when nothing needs them."""

    def __init__(
        self, settings: Settings, project: str, target: ScoringTarget, threads: Executor
    ) -> None:
        self.target = target
        """What is being served."""
        self._settings = settings
        self._project = project
        self._threads = threads
        self._versions = LoadedVersions(settings)
        self._now: Serving | None = None
        self._changing = asyncio.Lock()
        self._tidying: set[asyncio.Task[None]] = set()
        self._in_turn = asyncio.Lock()

    @property
    def now(self) -> Serving:
        """What answers the next batch, between `begin` and `end`."""
        assert self._now is not None
        return self._now

    async def begin(self) -> None:
        """Have the first ready. Raises what any server does."""
        # Whatever serves the champion: better the copy in this process than nobody.
        self._now = await self._prepared(self.target, strict=False)

    async def take_up(self, target: ScoringTarget) -> None:
        """Answer by another target of the same request topic from the next batch on.

        Raises what keeps its versions from running; then nothing has changed.
        """
        async with self._changing:
            running = self.target.revision
            behind = target.revision.revision < running.revision
            if behind and running.concerns(target.route.model):
                target = await asyncio.to_thread(retarget, target, running)
            await self._switch(target)

    async def apply(self, revision: Revision) -> None:
        """Answer by what another revision says from the next batch on.

        Raises what keeps its versions from running; then nothing has changed.
        """
        async with self._changing:
            await self._switch(await asyncio.to_thread(retarget, self.target, revision))

    async def end(self) -> None:
        """After the last batch, or a failed start: let go of everything."""
        await asyncio.gather(*self._tidying)
        if self._now is not None:
            await self._now.close()
        await self._versions.keep(())

    async def _switch(self, target: ScoringTarget) -> None:
        serving = await self._prepared(target, strict=True)
        before, self._now, self.target = self.now, serving, target
        task = asyncio.create_task(self._let_go(before))
        self._tidying.add(task)
        task.add_done_callback(self._tidying.discard)

    async def _prepared(self, target: ScoringTarget, *, strict: bool) -> Serving:
        """What answers by a target. A version that this worker has not run yet has to prove itself;
        if `strict`, a model server that is there has to run it, too."""
        dirs = _version_dirs(target)[: len(target.revision.versions)]
        loaded = [await self._versions.get(each, strict=strict) for each in dirs]
        serving = Serving(self._settings, self._project, target, loaded, self._threads)
        try:
            # What has been compiled is compiled: an undo must not wait for a server that hangs.
            await serving.warm(SWITCH_DEADLINE_MS if strict else START_DEADLINE_MS)
        except BaseException:
            await serving.close()
            raise
        return serving

    async def _let_go(self, before: Serving) -> None:
        # In turn: a batch of an earlier serving may still ask a version that nothing else uses.
        async with self._in_turn:
            await before.idle()
            await before.close()
            async with self._changing:
                await self._versions.keep(_version_dirs(self.target))


def _version_dirs(target: ScoringTarget) -> list[Path]:
    """Of the versions that run, and of the one that an undo would bring back."""
    revision = target.revision
    back = () if revision.previous is None else (revision.previous,)
    return [target.model_dir / str(version) for version in (*revision.versions, *back)]
