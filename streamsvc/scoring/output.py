"""A scored batch → the records that go out: predictions by partition, and the served log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from streamsvc.columns import BytesColumn, strings
from streamsvc.definitions.plan import Route
from streamsvc.entity_keys import murmur2
from streamsvc.events.wire import TRACE_HEADER
from streamsvc.models.artifact import ModelCard
from streamsvc.scoring.fallback import Ladder
from streamsvc.scoring.inputs import ServiceInputs
from streamsvc.scoring.pipeline import Scored
from streamsvc.scoring.records import (
    Predictions,
    entity_texts,
    prediction_ids,
    prediction_records,
)
from streamsvc.scoring.served_log import served_records
from streamsvc.transport.producer import Record

__all__ = ["Outgoing", "Writer"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What one batch publishes."""

    predictions: dict[int, list[Record]]
    """By partition, in the order of the requests."""
    served: list[Record]


class Writer:
    """Writes the records of one service and one model version."""

    def __init__(
        self,
        route: Route,
        inputs: ServiceInputs,
        card: ModelCard,
        ladder: Ladder,
        *,
        partitions: int,
        served_log: bool,
    ) -> None:
        """`partitions` is how many the predictions topic has."""
        self._route = route
        self._inputs = inputs
        self._card = card
        self._ladder = ladder
        self._partitions = partitions
        self._served_log = served_log

    def write(self, scored: Scored, topic_id: str) -> Outgoing:
        """The records of a batch; `topic_id` identifies the request topic."""
        requests = scored.requests
        if not len(requests):
            return Outgoing({}, [])
        names = self._ladder.names
        predictions = Predictions(
            service=self._inputs.service,
            model=self._card.model,
            model_version=str(self._card.version),
            topic=requests.topic,
            topic_id=topic_id,
            partition=requests.partition,
            offset=requests.offset,
            entity={
                key: requests.columns[field] for key, field in self._inputs.entity_fields.items()
            },
            score=scored.scores.values,
            threshold=self._route.threshold,
            request_time_ms=requests.time_ms,
            as_of_ms=scored.vectors.as_of,
            stale_ms=scored.stale_ms,
            ahead_ms=scored.vectors.ahead_ms,
            fallback=[names[step] for step in scored.scores.step.tolist()],
            queue_ms=scored.queue_ms,
            stage_ms=scored.stage_ms,
        )
        ids = prediction_ids(predictions)
        keys = entity_texts(predictions.entity)
        records: list[Record] = list(
            zip(keys, prediction_records(predictions, ids), _headers(requests.trace), strict=True)
        )
        served = (
            served_records(predictions, ids, scored.vectors, self._card.features)
            if self._served_log
            else []
        )
        return Outgoing(self._by_partition(keys, records), [(None, value, ()) for value in served])

    def _by_partition(
        self, keys: Sequence[bytes], records: list[Record]
    ) -> dict[int, list[Record]]:
        """As any Kafka client would spread them by key, so that one entity stays in order."""
        partition = murmur2(strings(keys)) % self._partitions
        order = np.argsort(partition, kind="stable")
        numbers, starts = np.unique(partition[order], return_index=True)
        ends = [*starts[1:].tolist(), len(records)]
        rows = order.tolist()
        return {
            number: [records[i] for i in rows[start:end]]
            for number, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=True)
        }


def _headers(trace: BytesColumn) -> list[Sequence[tuple[str, bytes]]]:
    headers: list[Sequence[tuple[str, bytes]]] = [()] * len(trace)
    for i in np.flatnonzero(trace.valid).tolist():
        headers[i] = [(TRACE_HEADER, trace.row(i))]
    return headers
