"""The rollout topic: read, and added to. See `models.rollout` for what its revisions mean."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import msgspec

from streamsvc.agents.topic_plan import rollout_topic
from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import latest_version
from streamsvc.models.rollout import Revision
from streamsvc.models.rollout_log import (
    Applied,
    Progress,
    RolloutLog,
    applied_key,
    progress_key,
    revision_key,
)
from streamsvc.settings import Settings
from streamsvc.state.topics import worker_group
from streamsvc.transport.admin import Admin
from streamsvc.transport.chunk import Chunk
from streamsvc.transport.groups import Groups
from streamsvc.transport.producer import BatchProducer
from streamsvc.transport.reader import EARLIEST, follow, read_to_end

__all__ = [
    "acknowledged",
    "add_chunk",
    "append_revision",
    "hear",
    "live_workers",
    "read_rollouts",
    "say_applied",
    "standing",
    "write_progress",
]

MAX_RECORDS = 1_000


async def read_rollouts(settings: Settings, project: str) -> RolloutLog:
    """All that the topic says; nothing where there is no topic."""
    log, topic = RolloutLog(), rollout_topic(settings, project).name
    if Admin(settings).exists(topic):
        async for chunk in read_to_end(settings, topic, {0: EARLIEST}):
            add_chunk(log, chunk)
    return log


def add_chunk(log: RolloutLog, chunk: Chunk) -> frozenset[str]:
    """Read a chunk of the topic; the services whose current revision it changed."""
    changed = [log.add(chunk.key(i), chunk.value(i)) for i in range(len(chunk))]
    log.position = chunk.next_offset
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


def standing(log: RolloutLog, service: str, model_dir: Path) -> Revision:
    """What shall run for a service, said or not.

    Where nobody has, of the model that its route names, that is what all its workers run; if they
    differ, or there are none, the newest version on disk.
    Raises ConfigurationError if there is none.
    """
    said, model = log.current(service), model_dir.name
    if said is not None and said.concerns(model):
        return said
    running = {each.champion for each in log.applied.get(service, {}).values()}
    unsaid = said is None and len(running) == 1
    champion = running.pop() if unsaid else int(latest_version(model_dir).name)
    return Revision.unwritten(service, champion, model, 0 if said is None else said.revision)


def live_workers(settings: Settings, project: str, service: str) -> frozenset[str]:
    """Names of the scoring workers of a service that its consumer group knows. Blocking."""
    group = worker_group(settings.topic_prefix, project, "scoring", service)
    return frozenset(Groups(Admin(settings)).members(group))


async def hear(
    settings: Settings,
    project: str,
    log: RolloutLog,
    service: str,
    workers: frozenset[str],
    patience_s: float,
) -> frozenset[str]:
    """Those of the workers that have not said what they run, once none is left or the patience has
    ended: a worker that has just started answers before it has told.

    Reads on in `log`.
    """

    def silent() -> frozenset[str]:
        return workers - log.applied.get(service, {}).keys()

    await _read_on(settings, project, log, lambda: not silent(), patience_s)
    return silent()


async def acknowledged(
    settings: Settings,
    project: str,
    log: RolloutLog,
    revision: Revision,
    workers: frozenset[str],
    patience_s: float,
) -> dict[str, Applied]:
    """Worker -> what it says of a revision, once all of them have or the patience has ended.

    Reads on in `log`.
    """

    def found() -> dict[str, Applied]:
        said = log.applied.get(revision.service, {})
        theirs = {worker: said[worker] for worker in workers & said.keys()}
        return {w: each for w, each in theirs.items() if each.revision >= revision.revision}

    await _read_on(settings, project, log, lambda: len(found()) == len(workers), patience_s)
    return found()


async def write_progress(settings: Settings, project: str, progress: Progress) -> None:
    """Keep what a controller wants to find again."""
    record = progress_key(progress.service), msgspec.json.encode(progress)
    await _send(settings, rollout_topic(settings, project).name, [record])


async def say_applied(
    settings: Settings, project: str, new: Sequence[Applied] = (), left: Sequence[Applied] = ()
) -> None:
    """Say what runs on a worker, and take back what was said where it does no more."""
    records = [(applied_key(s.service, s.worker), msgspec.json.encode(s)) for s in new]
    gone = [(applied_key(s.service, s.worker), None) for s in left]
    await _send(settings, rollout_topic(settings, project).name, [*records, *gone])


async def _read_on(
    settings: Settings, project: str, log: RolloutLog, done: Callable[[], bool], patience_s: float
) -> None:
    """Read the topic on until that is done, or the patience has ended."""
    topic = rollout_topic(settings, project).name
    deadline = asyncio.get_running_loop().time() + patience_s
    async with aclosing(follow(settings, topic, {0: log.position}, MAX_RECORDS)) as chunks:
        async for chunk in chunks:
            if chunk is not None:
                add_chunk(log, chunk)
            if done() or asyncio.get_running_loop().time() >= deadline:
                break


async def _send(
    settings: Settings, topic: str, records: Sequence[tuple[bytes, bytes | None]]
) -> None:
    if not records:
        return
    producer = BatchProducer(settings)
    await producer.start()
    try:
        await (await producer.send(topic, 0, [(key, value, ()) for key, value in records]))
    finally:
        await producer.stop()
