"""The sources that an archive worker writes, with everything that they need, checked once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from streamsvc.agents.topic_check import ensure_topics
from streamsvc.agents.topic_plan import archive_topics
from streamsvc.archive.rows import archive_schema
from streamsvc.archive.storage import ArchiveStorage
from streamsvc.definitions.plan import Plan, Source
from streamsvc.errors import ConfigurationError
from streamsvc.events.dead_letters import dead_topic
from streamsvc.events.decode import Decoder
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.schema_registry import open_registry

__all__ = ["ArchiveTarget", "archive_targets"]


@dataclass(frozen=True, slots=True)
class ArchiveTarget:
    """One source and where it is archived."""

    source: Source
    storage: ArchiveStorage
    decoder: Decoder
    dead_partitions: int | None
    """Of the topic of its dead letters; None if another worker sends them."""


def archive_targets(settings: Settings, plan: Plan, names: Sequence[str]) -> list[ArchiveTarget]:
    """The sources to archive. Raises ConfigurationError naming what is missing."""
    known = {source.name: source for source in plan.sources}
    for name in names:
        if name not in known:
            raise ConfigurationError(
                f"There is no KafkaSource {name!r}; there are {', '.join(sorted(known))}."
            )
        if not known[name].archive_is_directory:
            raise ConfigurationError(
                f"KafkaSource {name!r} has no directory to archive to: set its batch_source to a "
                "FileSource whose path is a directory, such as data/archive/payments or "
                "s3://bucket/payments."
            )
    chosen = [known[name] for name in names or sorted(known) if known[name].archive_is_directory]
    if not chosen:
        raise ConfigurationError(
            "No KafkaSource has an archive to write: give one a batch_source, a FileSource whose "
            "path is a directory, and `feast apply`."
        )
    states = ensure_topics(Admin(settings), archive_topics(settings, plan, chosen))
    registry = open_registry(settings, chosen)
    targets = []
    for source in chosen:
        assert source.archive_path is not None
        archive_schema(source)
        storage = ArchiveStorage(source.archive_path, source.archive_endpoint)
        if strangers := storage.strangers():
            raise ConfigurationError(
                f"{source.archive_path}, the archive of KafkaSource {source.name!r}, holds files "
                f"that no archive worker wrote ({strangers[0]}); it takes a directory of its own."
            )
        storage.sweep(time.time() - settings.archive_grace_s)
        letters = states.get(dead_topic(source.topic))
        dead_partitions = None if letters is None else letters.partitions
        decoder = Decoder(source, max_record_bytes=settings.max_record_bytes, registry=registry)
        targets.append(ArchiveTarget(source, storage, decoder, dead_partitions))
    return targets
