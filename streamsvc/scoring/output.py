"""A scored batch → the records that go out: predictions by partition, and the served log."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamsvc.columns import BytesColumn
from streamsvc.definitions.plan import Route
from streamsvc.entity_keys import murmur2
from streamsvc.events.wire import TRACE_HEADER
from streamsvc.record_text import entity_texts
from streamsvc.scoring.inputs import ServiceInputs
from streamsvc.scoring.pipeline import Answers, Scored
from streamsvc.scoring.records import (
    Predictions,
    prediction_ids,
    prediction_records,
)
from streamsvc.scoring.served_log import served_records
from streamsvc.transport.records import Headers, Record, Records, concat_records

__all__ = ["Outgoing", "Writer"]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What one batch publishes."""

    predictions: dict[int, Records]
    """By partition, in the order of the requests."""
    served: list[Record]


class Writer:
    """Writes the records of one service."""

    def __init__(
        self, route: Route, inputs: ServiceInputs, *, partitions: int, served_log: bool
    ) -> None:
        """`partitions` is how many the predictions topic has."""
        self._route = route
        self._inputs = inputs
        self._partitions = partitions
        self._served_log = served_log

    def write(self, scored: Scored, topic_id: str) -> Outgoing:
        """The records of a batch; `topic_id` identifies the request topic."""
        n = len(scored.requests)
        if not n:
            return Outgoing({}, [])
        found: list[Records] = []
        served: list[bytes] = []
        for answers in scored.answers:
            predictions = self._predictions(answers, topic_id)
            ids = prediction_ids(predictions)
            keys, values = entity_texts(predictions.entity), prediction_records(predictions, ids)
            found.append(Records(keys, values, _headers(answers.asked.requests.trace)))
            if self._served_log:
                served += self._served(answers, predictions, ids)
        records = concat_records(found)
        rows = [answers.rows for answers in scored.answers if answers.rows is not None]
        if rows:
            records = records.take(np.argsort(np.concatenate(rows)))
        return Outgoing(self._by_partition(records), [(None, value, ()) for value in served])

    def served(self, answers: Answers, topic_id: str) -> list[Record]:
        """The records of the served log alone: for answers that nobody waits for."""
        predictions = self._predictions(answers, topic_id)
        values = self._served(answers, predictions, prediction_ids(predictions))
        return [(None, value, ()) for value in values]

    def _predictions(self, answers: Answers, topic_id: str) -> Predictions:
        variant, asked, scores = answers.variant, answers.asked, answers.scores
        requests = asked.requests
        names = variant.ladder.names
        return Predictions(
            service=self._inputs.service,
            model=variant.card.model,
            model_version=variant.version,
            variant=variant.name,
            topic=requests.topic,
            topic_id=topic_id,
            partition=requests.partition,
            offset=requests.offset,
            entity={
                key: requests.columns[field] for key, field in self._inputs.entity_fields.items()
            },
            scores=scores.values,
            classes=variant.card.classes,
            threshold=self._route.threshold,
            request_time_ms=requests.time_ms,
            as_of_ms=asked.vectors.as_of,
            stale_ms=asked.stale_ms,
            ahead_ms=asked.vectors.ahead_ms,
            fallback=[names[step] for step in scores.step.tolist()],
            failed=scores.failed,
            queue_ms=asked.queue_ms,
            stage_ms={**asked.stage_ms, "model": answers.model_ms},
        )

    def _served(self, answers: Answers, predictions: Predictions, ids: BytesColumn) -> list[bytes]:
        features = answers.variant.card.features
        return served_records(predictions, ids, answers.asked.vectors, features)

    def _by_partition(self, records: Records) -> dict[int, Records]:
        """As any Kafka client would spread them by key, so that one entity stays in order."""
        partition = murmur2(records.keys) % self._partitions
        order = np.argsort(partition, kind="stable")
        numbers, starts = np.unique(partition[order], return_index=True)
        parts = np.split(order, starts[1:])
        return dict(zip(numbers.tolist(), map(records.take, parts), strict=True))


def _headers(trace: BytesColumn) -> dict[int, Headers]:
    return {i: [(TRACE_HEADER, trace.row(i))] for i in np.flatnonzero(trace.valid).tolist()}
