"""One definition of a service with one revision of its models: everything between requests and
records.

A worker has one at a time, and each batch is answered by the one that it began with. So a changed
definition or revision takes effect between two batches, and no answer is a mixture.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import Executor

import numpy as np

from streamsvc.agents.scoring_targets import ScoringTarget
from streamsvc.columns import I64
from streamsvc.definitions.plan import Route
from streamsvc.events.decode import Decoder
from streamsvc.models.artifact import ModelCard
from streamsvc.scoring.cache import ScoreCache
from streamsvc.scoring.fallback import Ladder
from streamsvc.scoring.features import FeatureReads
from streamsvc.scoring.fetch import StoreReads
from streamsvc.scoring.loaded import LoadedVersion
from streamsvc.scoring.marker_watch import MarkerWatch
from streamsvc.scoring.output import Writer
from streamsvc.scoring.pipeline import Clock, Pipeline
from streamsvc.scoring.requests import RequestReader
from streamsvc.scoring.row_cache import RowCache
from streamsvc.scoring.shared_scores import ScoreStore, SharedScores
from streamsvc.scoring.traffic import CHAMPION, Traffic, Variant
from streamsvc.scoring.warm import sample_chunk
from streamsvc.settings import Settings
from streamsvc.store.client import connect
from streamsvc.transport.batch_builder import warm as warm_batches
from streamsvc.transport.schema_registry import open_registry

__all__ = ["Serving"]


class Serving:
    """What answers the requests of a target. Belongs to one event loop."""

    def __init__(
        self,
        settings: Settings,
        project: str,
        target: ScoringTarget,
        loaded: Sequence[LoadedVersion],
        threads: Executor,
    ) -> None:
        """`loaded` are the versions of the target's revision, the champion first."""
        self.target = target
        # A store that hangs must leave the time for the default.
        most_ms = min(settings.redis_timeout_ms, max(10, target.route.deadline_ms // 2))
        client = connect(settings.model_copy(update={"redis_timeout_ms": most_ms}))
        clock = Clock()
        reads = StoreReads(client, project, _row_caches(target, clock))
        decoder = Decoder(
            target.request,
            max_record_bytes=settings.max_record_bytes,
            registry=open_registry(settings, [target.request]),
        )
        features = FeatureReads(
            target.inputs,
            RequestReader(target.request, decoder),
            reads,
            target.state_partitions,
            clock.monotonic,
        )
        self._watch = MarkerWatch(reads.raw_markers, reads.decode_marker)
        self._traffic = traffic = _traffic(settings, project, target, loaded, clock)
        self.pipeline = Pipeline(target.route, features, self._watch, traffic, threads, clock)
        self.writer = Writer(
            target.route,
            target.inputs,
            partitions=target.partitions[target.route.predictions],
            served_log=settings.served_log,
        )
        self._batches = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def warm(self, deadline_ms: int) -> None:
        """Have everything compiled."""
        scored = await self.pipeline.warm(sample_chunk(self.target.request), deadline_ms)
        await asyncio.to_thread(self.writer.write, scored, "")
        await asyncio.to_thread(warm_batches)

    def begin(self) -> None:
        """A batch is to be answered by this."""
        self._batches += 1
        self._idle.clear()

    def end(self) -> None:
        """A batch that began is answered, or never will be."""
        self._batches -= 1
        if not self._batches:
            self._idle.set()

    async def idle(self) -> None:
        """Return once every batch that began has ended."""
        await self._idle.wait()

    async def close(self) -> None:
        """End waits and connections."""
        await self.pipeline.close()
        for variant in self._traffic.variants:
            await variant.ladder.close()
        self._watch.close()


def _traffic(
    settings: Settings,
    project: str,
    target: ScoringTarget,
    loaded: Sequence[LoadedVersion],
    clock: Clock,
) -> Traffic:
    candidate = target.revision.candidate
    names = [CHAMPION] if candidate is None else [CHAMPION, candidate.mode]
    variants = [
        Variant(
            name,
            version.card,
            _ladder(target, version, clock, _shared(settings, project, target.route, version.card)),
            _columns(target, version),
        )
        for name, version in zip(names, loaded, strict=True)
    ]
    if candidate is None:
        return Traffic(variants[0])
    return Traffic(variants[0], variants[1], candidate.weight, target.revision.salt)


def _row_caches(target: ScoringTarget, clock: Clock) -> dict[str, RowCache]:
    route = target.route
    if not route.feature_cache_mb:
        return {}
    ttl_s = route.feature_cache_ms / 1e3
    return {
        view.name: RowCache(route.feature_cache_mb, ttl_s, clock.monotonic)
        for view in target.inputs.views
        if view.topic is None
    }


def _shared(settings: Settings, project: str, route: Route, card: ModelCard) -> SharedScores | None:
    if not route.shared_cache_s:
        return None
    most_ms = min(settings.redis_timeout_ms, max(10, route.deadline_ms // 10))
    client = connect(settings.model_copy(update={"redis_timeout_ms": most_ms}))
    return SharedScores(ScoreStore(client, project, card, route.shared_cache_s), most_ms / 1e3)


def _ladder(
    target: ScoringTarget, version: LoadedVersion, clock: Clock, shared: SharedScores | None
) -> Ladder:
    route, features = target.route, len(version.card.features)
    scores = version.card.scores
    cache = ScoreCache(features, route.cache_mb, scores) if route.cache_mb else None
    return Ladder(version.rungs, _default(version.card, route), clock.monotonic, cache, shared)


def _default(card: ModelCard, route: Route) -> list[float]:
    """What is answered where no model can: of classes all for the one that the route names."""
    if card.task != "multiclass":
        return [route.default]
    return [float(name == route.default_class) for name in card.classes]


def _columns(target: ScoringTarget, version: LoadedVersion) -> I64 | None:
    at = {str(ref): j for j, ref in enumerate(target.inputs.columns)}
    columns = [at[feature] for feature in version.card.features]
    return None if columns == list(range(len(at))) else np.array(columns, np.int64)
