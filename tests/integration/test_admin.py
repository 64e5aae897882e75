"""What a broker says while the controller is still at work is not the last word."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException

from streamsvc.transport.admin import Admin, TopicSpec


@pytest.mark.parametrize(
    "code",
    [
        KafkaError.LEADER_NOT_AVAILABLE,
        KafkaError.NOT_LEADER_FOR_PARTITION,
        KafkaError.UNKNOWN_LEADER_EPOCH,
        KafkaError.FENCED_LEADER_EPOCH,
        KafkaError._NOENT,
    ],
)
def test_offsets_are_asked_for_again_until_there_is_a_leader(
    stack: Any, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    admin, topic = Admin(stack.settings), stack.unique("leaders")
    admin.ensure([TopicSpec(topic, 2)])
    ask, asked = admin.client.kafka.list_offsets, []

    def list_offsets(request: Any, **options: Any) -> Any:
        asked.append(1)
        if len(asked) > 2:
            return ask(request, **options)
        answers = {tp: Future() for tp in request}
        for future in answers.values():
            future.set_exception(KafkaException(KafkaError(code)))
        return answers

    monkeypatch.setattr(admin.client, "kafka", Wrapped(admin.client.kafka, list_offsets))
    assert admin.end_offsets(topic) == {0: 0, 1: 0}
    assert len(asked) >= 3


class Wrapped:
    """The client, but for one call: its own attributes cannot be set."""

    def __init__(self, client: Any, list_offsets: Any) -> None:
        self._client, self.list_offsets = client, list_offsets

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)
