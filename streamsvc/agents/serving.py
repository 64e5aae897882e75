"""One definition of a service with one model: everything between requests and records.

A worker has one at a time, and each batch is answered by the one that it began with. So a changed
definition takes effect between two batches, and no answer is a mixture.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor

from streamsvc.agents.scoring_targets import ScoringTarget
from streamsvc.events.decode import Decoder
from streamsvc.scoring.fallback import Endpoint, Ladder
from streamsvc.scoring.features import FeatureReads
from streamsvc.scoring.fetch import StoreReads
from streamsvc.scoring.in_process import InProcessModel
from streamsvc.scoring.marker_watch import MarkerWatch
from streamsvc.scoring.output import Writer
from streamsvc.scoring.pipeline import Clock, Pipeline
from streamsvc.scoring.requests import RequestReader
from streamsvc.scoring.triton_client import TritonModel
from streamsvc.scoring.warm import sample_chunk
from streamsvc.settings import Settings
from streamsvc.store.client import connect
from streamsvc.transport.schema_registry import open_registry

__all__ = ["Serving"]


class Serving:
    """What answers the requests of a target. Needs a running event loop: the model server's client
    binds to it."""

    def __init__(
        self, settings: Settings, project: str, target: ScoringTarget, threads: Executor
    ) -> None:
        self.target = target
        ladder = _ladder(settings, target)
        reads = StoreReads(connect(settings), project)
        decoder = Decoder(
            target.request,
            max_record_bytes=settings.max_record_bytes,
            registry=open_registry(settings, [target.request]),
        )
        clock = Clock()
        features = FeatureReads(
            target.inputs,
            RequestReader(target.request, decoder),
            reads,
            target.state_partitions,
            clock.monotonic,
        )
        self._watch = MarkerWatch(reads.raw_markers, reads.decode_marker)
        self.pipeline = Pipeline(target.route, features, self._watch, ladder, threads, clock)
        self.writer = Writer(
            target.route,
            target.inputs,
            target.model.card,
            ladder,
            partitions=target.partitions[target.route.predictions],
            served_log=settings.served_log,
        )
        self._batches = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def prove(self) -> None:
        """See that the model answers as it should, and have everything compiled."""
        for endpoint in self.pipeline.ladder.endpoints:
            await endpoint.prove()
        scored = await self.pipeline.warm(sample_chunk(self.target.request))
        await asyncio.to_thread(self.writer.write, scored, "")

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
        self._watch.close()


def _ladder(settings: Settings, target: ScoringTarget) -> Ladder:
    servers = [Endpoint(InProcessModel(target.model))]
    if settings.model_server == "triton":
        servers.insert(0, Endpoint(TritonModel.connect(settings, target.model.card)))
    return Ladder(servers, target.route.default, Clock().monotonic)
