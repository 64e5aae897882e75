"""The rollout topic: read, and added to. See `models.rollout` for what its revisions mean."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from streamsvc.agents.topic_plan import rollout_topic
from streamsvc.errors import ConfigurationError
from streamsvc.models.rollout import Revision
from streamsvc.models.rollout_log import Progress, RolloutLog, progress_key, revision_key
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import EARLIEST, read_to_end

__all__ = ["add_chunk", "append_revision", "read_rollouts", "write_progress"]


async def read_rollouts(settings: Settings, project: str) -> RolloutLog:
    """All that the topic says; nothing where there is no topic."""
    log, topic = RolloutLog(), rollout_topic(settings, project).name
    if Admin(settings).exists(topic):
        async for chunk in read_to_end(settings, topic, {0: EARLIEST}):
            add_chunk(log, chunk)
    return log


def add_chunk(log: RolloutLog, chunk: Chunk) -> frozenset[str]:
    """Read a chunk of the topic; the services whose current revision it changed."""
    changed = (log.add(chunk.key(i), chunk.value(i)) for i in range(len(chunk)))
    return frozenset(service for service in changed if service is not None)


async def append_revision(settings: Settings, project: str, revision: Revision) -> None:
    """Let a revision hold from now on. Makes the topic if it is missing.

    Raises ConfigurationError if somebody else changed the service since it was read.
    """
    topic = rollout_topic(settings, project)
    Admin(settings).ensure([topic.spec])
    key = revision_key(revision.service, revision.revision, secrets.token_hex(4))
    await _send(settings, topic.name, [(key, msgspec.json.encode(revision))])
    held = (await read_rollouts(settings, project)).revisions.get(revision.service, [])
    if revision not in held:
        by = f" by {held[-1].who}: {held[-1].action}, {held[-1].why}" if held else ""
        raise ConfigurationError(
            f"What runs for service {revision.service!r} was changed in the meantime{by}. Look "
            "again with `streamsvc rollout status`."
        )


async def write_progress(settings: Settings, project: str, progress: Progress) -> None:
    """Keep what a controller wants to find again."""
    record = progress_key(progress.service), msgspec.json.encode(progress)
    await _send(settings, rollout_topic(settings, project).name, [record])


async def _send(settings: Settings, topic: str, records: Sequence[tuple[bytes, bytes]]) -> None:
    producer = BatchProducer(settings)
    await producer.start()
    try:
        await (await producer.send(topic, 0, [(key, value, ()) for key, value in records]))
    finally:
        await producer.stop()
