"""Topics: made, counted, identified. Blocking calls; use a thread from async code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from confluent_kafka import KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import ConfigResource, NewTopic, OffsetSpec
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_exponential, wait_fixed

from streamsvc.errors import ConfigurationError
from streamsvc.settings import Settings
from streamsvc.transport.admin_client import (
    TIMEOUT_S,
    AnsweringClient,
    NoLeaderError,
    NotAllowedError,
    NoTopicError,
    TopicExistsError,
)
from streamsvc.transport.kafka_faults import unanswered

__all__ = ["Admin", "TopicSpec", "TopicState"]

KNOWN_EVERYWHERE_S = 10.0


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as it should be made: `config` holds Kafka's topic settings as strings."""

    name: str
    partitions: int
    config: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TopicState:
    """A topic as it is."""

    name: str
    topic_id: str
    """Its identity, which a topic made anew under the same name does not share."""
    partitions: int
    replication: int
    """Replicas of the partition that has fewest."""


class Admin:
    """Raises UnavailableError when no broker answers, ConfigurationError for an unknown topic, and
    for credentials or certificates with which no broker lets us in.
    """

    def __init__(self, settings: Settings) -> None:
        self.client = AnsweringClient(settings)
        self._settings = settings
        self._replication = settings.topic_replication_factor

    def ensure(self, topics: Sequence[TopicSpec]) -> dict[str, TopicState]:
        """Makes the topics that do not exist, leaves the others as they are; returns all of them.

        Nothing is asked of the broker for topics that exist, so whoever may not create topics can
        run on those that somebody else has made. Raises ConfigurationError if one is missing that
        we may not create.
        """
        # A name that stands twice in one request kills the process in confluent-kafka 2.16.
        wanted = {topic.name: topic for topic in topics}
        found = self.describe(list(wanted))
        missing = [topic for name, topic in wanted.items() if name not in found]
        if missing:
            self._create(missing)
            found |= self._known([topic.name for topic in missing])
        return found

    def _create(self, topics: Sequence[TopicSpec]) -> None:
        new = [
            NewTopic(t.name, t.partitions, self._replication, config=dict(t.config)) for t in topics
        ]
        made = self.client.kafka.create_topics(new, operation_timeout=TIMEOUT_S)
        for name, future in made.items():
            try:
                self.client.result(name, future)
            except TopicExistsError:
                continue
            except ConfigurationError as error:
                raise ConfigurationError(
                    f"Topic {name!r} does not exist, and cannot be created. {error} "
                    "`streamsvc topics create --dry-run` prints the commands with which somebody "
                    "who may can create all that are missing."
                ) from error

    @retry(
        retry=retry_if_exception_type(NoTopicError),
        wait=wait_fixed(0.05),
        stop=stop_after_delay(KNOWN_EVERYWHERE_S),
        reraise=True,
    )
    def _known(self, topics: Sequence[str]) -> dict[str, TopicState]:
        """Topics that were just made; a broker may take a moment to know them."""
        found = self.describe(topics)
        for name in topics:
            if name not in found:
                raise NoTopicError(f"There is no topic {name!r}")
        return found

    def topics(self) -> list[str]:
        """Names of all topics but Kafka's own. Raises UnavailableError if no broker answers."""
        self.client.result(
            "the cluster", self.client.kafka.describe_cluster(request_timeout=TIMEOUT_S)
        )
        try:
            return sorted(
                name
                for name in self.client.kafka.list_topics(timeout=TIMEOUT_S).topics
                if not name.startswith("__")
            )
        except KafkaException as error:
            raise unanswered(self._settings, error.args[0].str()) from error

    def describe(self, topics: Sequence[str]) -> dict[str, TopicState]:
        """Those of the topics that exist, by name."""
        if not topics:
            return {}
        asked = TopicCollection(list(dict.fromkeys(topics)))
        found: dict[str, TopicState] = {}
        for name, future in self.client.kafka.describe_topics(
            asked, request_timeout=TIMEOUT_S
        ).items():
            try:
                topic = self.client.result(name, future)
            except NoTopicError:
                continue
            replicas = [len(partition.replicas) for partition in topic.partitions]
            found[name] = TopicState(
                name, str(topic.topic_id), len(replicas), min(replicas, default=0)
            )
        return found

    def configs(self, topics: Sequence[str]) -> dict[str, dict[str, str]]:
        """Kafka's settings as they hold for each topic, defaults of the broker included.

        Topics that do not exist, or whose settings we may not see, are left out.
        """
        if not topics:
            return {}
        asked = [ConfigResource(ConfigResource.Type.TOPIC, n) for n in dict.fromkeys(topics)]
        answers = self.client.kafka.describe_configs(asked, request_timeout=TIMEOUT_S)
        found: dict[str, dict[str, str]] = {}
        for resource, future in answers.items():
            try:
                entries = self.client.result(resource.name, future)
            except (NoTopicError, NotAllowedError):
                continue
            found[resource.name] = {
                name: entry.value for name, entry in entries.items() if entry.value is not None
            }
        return found

    def partitions(self, topic: str) -> int:
        """How many partitions the topic has."""
        return self.state(topic).partitions

    def exists(self, topic: str) -> bool:
        """Whether the topic exists."""
        return bool(self.describe([topic]))

    def topic_id(self, topic: str) -> str:
        """The topic's identity, which a topic made anew under the same name does not share."""
        return self.state(topic).topic_id

    def start_offsets(self, topic: str) -> dict[int, int]:
        """Partition -> offset of the first record that still exists."""
        return self._offsets(topic, OffsetSpec.earliest())

    def offsets_since(self, topic: str, ms: int) -> dict[int, int]:
        """Partition -> offset of its first record with this Kafka timestamp or a later one; of one
        that has none, where it ended before it was asked."""
        ends = self.end_offsets(topic)
        found = self._offsets(topic, OffsetSpec.for_timestamp(ms))
        return {p: at if at >= 0 else ends[p] for p, at in found.items()}

    def end_offsets(self, topic: str) -> dict[int, int]:
        """Partition -> offset that the next record will get."""
        return self._offsets(topic, OffsetSpec.latest())

    def delete_records(self, topic: str, before: Mapping[int, int]) -> None:
        """Deletes every record below these offsets (partition -> offset)."""
        request = [TopicPartition(topic, p, offset) for p, offset in before.items()]
        if request:
            for future in self.client.kafka.delete_records(request).values():
                self.client.result(topic, future)

    def delete(self, topics: Sequence[str]) -> None:
        """Deletes topics with everything in them."""
        if topics:
            for name, future in self.client.kafka.delete_topics(list(topics)).items():
                self.client.result(name, future)

    def state(self, topic: str) -> TopicState:
        """One topic as it is."""
        found = self.describe([topic])
        if topic not in found:
            raise NoTopicError(f"There is no topic {topic!r}")
        return found[topic]

    @retry(
        retry=retry_if_exception_type(NoLeaderError),
        wait=wait_exponential(multiplier=0.01, max=0.5),
        stop=stop_after_delay(TIMEOUT_S),
        reraise=True,
    )
    def _offsets(self, topic: str, spec: OffsetSpec) -> dict[int, int]:
        # A topic made a moment ago has partitions before it has leaders.
        request = {TopicPartition(topic, p): spec for p in range(self.partitions(topic))}
        found = self.client.kafka.list_offsets(request, request_timeout=TIMEOUT_S)
        return {tp.partition: self.client.result(topic, f).offset for tp, f in found.items()}
