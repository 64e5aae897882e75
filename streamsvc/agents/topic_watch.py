"""Topics that change while a worker reads them.

Offsets mean nothing in a topic that was made anew, and the client cannot tell: it would go on at
the old offset as soon as the new topic reaches it. So a worker looks at what its topics are, at
every rebalance and now and then. What it read wrongly until then it read under its old incarnation,
which ends with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from streamsvc.definitions.plan import Source
from streamsvc.errors import IntegrityError, StreamsvcError
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin, TopicState
from streamsvc.transport.groups import Groups

__all__ = ["INTERVAL_S", "changed", "grown", "request_topic", "watch_topics"]

log = structlog.get_logger(__name__)

INTERVAL_S = 5.0
"""As often as the consumer looks for added partitions."""


def changed(
    topic: str, before: TopicState, now: TopicState | None, source: Source | None = None
) -> str | None:
    """What has happened to a topic that a worker cannot go on with, and what to do; else None.

    `source` is given where the topic's partitions hold state by the key that it declares.
    """
    if now is None:
        return (
            f"Topic {topic} was deleted. Start the worker again once it is there: what reads it "
            "begins anew on it."
        )
    if now.topic_id != before.topic_id:
        return (
            f"Topic {topic} was deleted and made anew: offsets of the old one mean nothing in it. "
            "Start the worker again: what reads it begins anew, at the beginning of the new topic."
        )
    if source is not None and source.key_field is not None and now.partitions != before.partitions:
        return grown(source, before.partitions, now.partitions)
    return None


def grown(source: Source, before: int, now: int) -> str:
    """Why a source that declares its key cannot go on with another number of partitions."""
    return (
        f"Topic {source.topic} has {now} partitions, and had {before} when records of it were "
        f"counted first. Source {source.name} declares that it is partitioned by murmur2 of "
        f"{source.key_field}, which cannot be true of older and newer records alike: many would be "
        "refused as wrong_key. Remove its tag streamsvc.key, `feast apply`, and start the workers: "
        "its views are rebuilt through the shuffle, from all that the topic holds. Or write the "
        "records into a new topic, and name that."
    )


async def watch_topics(
    settings: Settings,
    expected: Callable[[], Mapping[str, TopicState]],
    keyed: Callable[[], Mapping[str, Source]],
    fatal: Callable[[BaseException], None],
) -> None:
    """Look at the topics until one has changed, which `fatal` is told as an IntegrityError.

    `keyed` are the sources, by topic, that declare their key.
    """
    admin = Admin(settings)
    while True:
        await asyncio.sleep(INTERVAL_S)
        before = expected()
        try:
            now = await asyncio.to_thread(admin.describe, list(before))
        except StreamsvcError as error:
            # The clients that read and write wait for Kafka, too.
            log.warning("topics_not_seen", error=str(error))
            continue
        for topic, state in before.items():
            why = changed(topic, state, now.get(topic), keyed().get(topic))
            if why is not None:
                fatal(IntegrityError(why))
                return


def request_topic(settings: Settings, group: str, topic: str) -> tuple[TopicState, dict[int, int]]:
    """What a request topic is now, and partitions that its group has to begin at this offset.

    Those are the ones whose committed offsets belong to an earlier topic of the same name, by the
    id that is stored with them. All that the group has still to answer is there, or it raises
    IntegrityError.
    """
    admin = Admin(settings)
    state = admin.state(topic)
    # In this order, because the group's other workers go on answering and committing meanwhile: an
    # end that was read before an offset may lie below it.
    begins = admin.start_offsets(topic)
    committed = Groups(admin).committed(group, topic)
    ends = admin.end_offsets(topic)
    anew = {}
    for partition, (at, topic_id) in committed.items():
        begin, end = begins.get(partition, at), ends.get(partition, at)
        if topic_id not in ("", state.topic_id):
            anew[partition] = begin
            continue
        if not begin <= at <= end:
            raise IntegrityError(
                f"{topic}/{partition} holds the offsets {begin} to {end}, but group {group} goes "
                f"on at {at}: requests were deleted unanswered, or the topic has lost its end. To "
                "go on with what there is: kafka-consumer-groups.sh --bootstrap-server "
                f"{settings.kafka_bootstrap_servers} --group {group} --topic {topic}:{partition} "
                "--reset-offsets --to-earliest --execute, then start the worker again. Keep "
                "requests for longer than workers may be away."
            )
    return state, anew
