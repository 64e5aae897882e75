"""Names of the topics that streamsvc keeps for itself, and how they are configured."""

from __future__ import annotations

from dataclasses import dataclass

from streamsvc.events.dead_letters import dead_topic

__all__ = [
    "DEAD_LETTER_CONFIG",
    "LOG_CONFIG",
    "SHUFFLE_CONFIG",
    "TABLE_CONFIG",
    "TAIL_GROUP",
    "InternalTopics",
    "served_topic",
    "worker_group",
]

_MAX_RECORD_BYTES = str(10 * 1024 * 1024)

LOG_CONFIG = {
    # A trimmed log: DeleteRecords is refused on a compacted topic, and time-based retention would
    # lose the state of a view that is quiet for a week.
    "cleanup.policy": "delete",
    "retention.ms": "-1",
    "retention.bytes": "-1",
    "segment.bytes": str(64 * 1024 * 1024),
    "max.message.bytes": _MAX_RECORD_BYTES,
}
SHUFFLE_CONFIG = {
    "cleanup.policy": "delete",
    "retention.ms": str(7 * 24 * 3_600_000),
    "segment.bytes": str(128 * 1024 * 1024),
    "max.message.bytes": _MAX_RECORD_BYTES,
}
TABLE_CONFIG = {"cleanup.policy": "compact", "max.message.bytes": _MAX_RECORD_BYTES}
DEAD_LETTER_CONFIG = {"max.message.bytes": _MAX_RECORD_BYTES}

TAIL_GROUP = "streamsvc-predictions-tail"
"""The group that `streamsvc predictions tail` names and never joins: its client asks for one."""


def served_topic(service: str) -> str:
    """Where the vectors of a service are logged."""
    return f"served.{service}"


def worker_group(prefix: str, project: str, *words: str) -> str:
    """The consumer group of one kind of worker; `words` say which."""
    return ".".join([f"{prefix}streamsvc", project, *words])


@dataclass(frozen=True, slots=True)
class InternalTopics:
    """Topic names of one project. The incarnation is part of the name of whatever depends on it,
    so that a rebuilt view starts on empty logs and a worker of the old definition disturbs nobody.
    """

    prefix: str
    project: str

    @property
    def beginning(self) -> str:
        """What the names of all of them begin with, and no others."""
        return f"{self.prefix}streamsvc.{self.project}."

    @property
    def control(self) -> str:
        """Compacted, one partition: incarnations."""
        return f"{self.beginning}control"

    @property
    def progress(self) -> str:
        """Compacted, one partition: how far each source partition was shuffled for each view."""
        return f"{self.beginning}progress"

    @property
    def rollout(self) -> str:
        """Compacted, one partition: which model versions answer for each service."""
        return f"{self.beginning}rollout"

    def changelog(self, view: str, incarnation: int) -> str:
        """Co-partitioned with the view's input: its tiles, end markers and open records."""
        return f"{self.beginning}{view}.{incarnation}.changelog"

    def shuffle(self, source: str, incarnation: int) -> str:
        """One partition a key group: rows of the source's shuffled views, by entity."""
        return f"{self.beginning}{source}.{incarnation}.shuffle"

    @staticmethod
    def dead(topic: str) -> str:
        """Where bad records of a topic go."""
        return dead_topic(topic)
