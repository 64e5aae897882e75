"""One rollout's evidence, read on and on from the served log and the labels topic."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

import structlog

from streamsvc.agents.scoring_targets import served_topic
from streamsvc.definitions.plan import Plan, Service
from streamsvc.errors import StreamsvcError
from streamsvc.events.decode import Decoder
from streamsvc.models.artifact import load_card
from streamsvc.models.compatibility import check_judgeable
from streamsvc.models.gates import Evidence
from streamsvc.models.rollout import Revision
from streamsvc.models.rollout_policy import Policy
from streamsvc.monitor.rollout.evidence import RolloutEvidence
from streamsvc.scoring.inputs import service_inputs
from streamsvc.scoring.served_log import read_served
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.reader import follow
from streamsvc.transport.schema_registry import open_registry

__all__ = ["RolloutReading", "open_evidence"]

log = structlog.get_logger(__name__)

_MAX_RECORDS = 1_000
_PAUSE_S = 1.0


def open_evidence(
    settings: Settings, plan: Plan, service: Service, revision: Revision, policy: Policy
) -> RolloutEvidence:
    """Of the versions of a revision. `settings.model_repository` is absolute.

    Raises ConfigurationError where the champion's card cannot be read or does not fit the service.
    """
    assert service.route is not None
    champion = load_card(settings.model_repository / service.route.model / str(revision.champion))
    check_judgeable(champion, service.route, policy.metrics)
    # Entities are those of the champion's features, whoever is tried beside it.
    fields = service_inputs(plan, service, champion.features).entity_fields
    return RolloutEvidence(service.route, fields, revision, policy, champion.score)


class RolloutReading:
    """Two tasks that read from the rollout's start; they outlive servers that are away a while."""

    def __init__(
        self, settings: Settings, service: Service, evidence: RolloutEvidence, start_ms: int
    ) -> None:
        """Needs a running event loop."""
        self._settings = settings
        self._service = service
        self._start_ms = start_ms
        self._evidence = evidence
        self._served_until_ms = 0
        self._offsets: dict[str, dict[int, int]] = {}
        """Topic -> the offset to read next, by partition: a reader that is begun anew goes on."""
        self._tasks = [asyncio.create_task(self._read(served_topic(service.name), self._served))]
        if service.labels is not None:
            self._decoder = Decoder(
                service.labels,
                max_record_bytes=settings.max_record_bytes,
                registry=open_registry(settings, [service.labels]),
            )
            self._tasks.append(asyncio.create_task(self._read(service.labels.topic, self._labels)))

    @property
    def counts(self) -> Mapping[str, int]:
        """What became of the labels so far."""
        counts = self._evidence.counts
        return {
            "joined": counts.joined,
            "duplicate": counts.duplicate,
            "late": counts.late,
            "unmatched": counts.unmatched,
            "unusable": self._evidence.unusable,
        }

    def at(self, since_ms: int, refused: Mapping[str, str]) -> Evidence:
        """The evidence of the interval that began then."""
        return self._evidence.at(since_ms, self._served_until_ms, refused)

    async def close(self) -> None:
        """End reading."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, topic: str, take: Callable[[Chunk], None]) -> None:
        told = ""
        while True:
            try:
                await self._follow(topic, take)
            except StreamsvcError as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("rollout_cannot_read", topic=topic, error=told)
            await asyncio.sleep(_PAUSE_S)

    async def _follow(self, topic: str, take: Callable[[Chunk], None]) -> None:
        admin = Admin(self._settings)
        if not await asyncio.to_thread(admin.exists, topic):
            return  # nobody has written to it yet
        firsts = await asyncio.to_thread(admin.start_offsets, topic)
        offsets = self._offsets.get(topic)
        if offsets is None:
            offsets = await asyncio.to_thread(admin.offsets_since, topic, self._start_ms)
            self._offsets[topic] = offsets
        for partition, first in firsts.items():
            offsets[partition] = max(offsets.get(partition, first), first)
        ends: dict[int, int] = {}
        read_at_ms = time.time_ns() // 1_000_000
        async for chunk in follow(self._settings, topic, dict(offsets), _MAX_RECORDS, ends):
            if chunk is not None:
                take(chunk)
                offsets[chunk.partition] = chunk.next_offset
            if take == self._served and all(
                offsets[partition] >= ends.get(partition, offsets[partition] + 1)
                for partition in offsets
            ):
                # Everything that lay there when the last fetch began has been read.
                self._served_until_ms, read_at_ms = read_at_ms, time.time_ns() // 1_000_000

    def _served(self, chunk: Chunk) -> None:
        for i in range(len(chunk)):
            value = chunk.value(i)
            if value is not None:
                self._evidence.add_served(read_served(value), int(chunk.timestamps[i]))

    def _labels(self, chunk: Chunk) -> None:
        if len(chunk):
            decoded = self._decoder.decode(chunk.values, chunk.timestamps)
            self._evidence.add_labels(decoded, chunk.timestamps)
