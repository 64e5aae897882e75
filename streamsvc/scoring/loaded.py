"""Model versions that are loaded and have shown that they compute what they were trained to.

What runs changes more often than versions come and go: a weight, an undo, a definition. So versions
are kept as long as they run or may be brought back, with the connections and the circuit breakers
that belong to them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from streamsvc.models.artifact import ModelCard
from streamsvc.models.golden import check_golden
from streamsvc.models.local_model import LocalModel
from streamsvc.scoring.fallback import Endpoint, Rung
from streamsvc.scoring.in_process import InProcessModel
from streamsvc.scoring.pool import Pool
from streamsvc.scoring.triton_client import TritonModel
from streamsvc.settings import Settings

__all__ = ["LoadedVersion", "LoadedVersions"]


@dataclass(frozen=True, slots=True, eq=False)
class LoadedVersion:
    """One version of a model, and who can be asked for its scores, in this order."""

    card: ModelCard
    rungs: tuple[Rung, ...]

    @classmethod
    async def load(cls, settings: Settings, version_dir: Path, *, strict: bool) -> LoadedVersion:
        """Load a version and have its golden vectors answered, here and by the model server.

        A model server that is away is left alone until it has answered them. One that is there and
        cannot is, too; or CheckFailedError is raised, if `strict`. Raises ConfigurationError for
        files that cannot be read, CheckFailedError for a copy in this process that is another
        function.
        """
        model = await asyncio.to_thread(LocalModel, version_dir)
        if model.card.golden.inputs:
            await asyncio.to_thread(check_golden, model.card, model.predict, "this process")
        rungs: list[Rung] = [Endpoint(InProcessModel(model))]
        if settings.model_server == "triton":
            servers = [
                Endpoint(TritonModel.connect(settings, address, model.card), model.card)
                for address in settings.triton_addresses
            ]
            rungs.insert(0, servers[0] if len(servers) == 1 else Pool(servers, time.monotonic))
        loaded = cls(model.card, tuple(rungs))
        try:
            for rung in rungs:
                await rung.prove(strict=strict)
        except BaseException:
            await loaded.close()
            raise
        return loaded

    async def close(self) -> None:
        """Let go of its servers."""
        await asyncio.gather(*(rung.close() for rung in self.rungs))


class LoadedVersions:
    """The versions of one service that are kept. Belongs to one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._kept: dict[Path, LoadedVersion] = {}

    async def get(self, version_dir: Path, *, strict: bool) -> LoadedVersion:
        """A version, loaded if it is not kept. Raises what `LoadedVersion.load` does."""
        found = self._kept.get(version_dir)
        if found is None:
            found = await LoadedVersion.load(self._settings, version_dir, strict=strict)
            self._kept[version_dir] = found
        return found

    async def keep(self, version_dirs: Collection[Path]) -> None:
        """Let go of all others. None of them may be in use."""
        gone = [each for each in self._kept if each not in version_dirs]
        await asyncio.gather(*(self._kept.pop(each).close() for each in gone))
