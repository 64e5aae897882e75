"""Why a prediction is what it is: from the served log, the topics around it, and the model.

The served log has the vector; the prediction, what was decided and how long it took; the request
topic, what was asked. The last two are shown as long as the broker has them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamsvc.definitions.plan import Plan
from streamsvc.errors import ConfigurationError
from streamsvc.models.contributions import contributions
from streamsvc.scoring.prediction_id import RequestPlace, parse_prediction_id
from streamsvc.scoring.served_log import read_served
from streamsvc.scoring.traffic import SHADOW
from streamsvc.scoring.vectors import NO_ROW
from streamsvc.settings import Settings
from streamsvc.state.topics import served_topic
from streamsvc.transport.admin import Admin
from streamsvc.transport.reader import EARLIEST, read_to_end

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Explanation", "FeaturePart", "ViewRow", "explain"]

CLOCKS_MS = 60_000
"""How far a producer's clock may be ahead of the broker's before the search begins too late."""


class ViewRow(msgspec.Struct, frozen=True):
    """The row of one view that was read; all null where the store held none."""

    view: str
    incarnation: int | None
    offset: int | None
    """Up to where the row contains its log."""
    as_of_ms: int | None
    age_ms: int | None
    """How long before the request its values had last changed; negative if after it."""


class FeaturePart(msgspec.Struct, frozen=True):
    """One input of the model; null is missing."""

    feature: str
    value: float | None
    contribution: float | None


class Explanation(msgspec.Struct, frozen=True):
    """Everything that is known of one prediction."""

    prediction_id: str
    service: str
    entity: dict[str, str | int | None]
    request_time_ms: int
    request: dict[str, Any] | None
    """The record that asked; null where the broker has it no more, or it is no JSON."""
    model: str
    model_version: str
    variant: str
    fallback: str | None
    score: float
    scores: dict[str, float] | None
    """Of each class, where the model tells classes apart."""
    threshold: float
    decision: bool | str
    stale_ms: int
    ahead_ms: int
    latency_ms: dict[str, float] | None
    views: list[ViewRow]
    features: list[FeaturePart]
    """By the size of what they contributed, else in the model's order."""
    base: float | None
    margin: float | None
    """The base and all contributions together."""
    not_attributed: str | None
    """Why there are no contributions."""


def explain(settings: Settings, plan: Plan, repository: Path, prediction_id: str) -> Explanation:
    """Find a prediction and take it apart.

    Raises ConfigurationError for an id of no route, or one that the served log does not have.
    """
    place = parse_prediction_id(prediction_id, plan.services)
    return asyncio.run(_explain(settings, repository, prediction_id, place))


async def _explain(
    settings: Settings, repository: Path, prediction_id: str, place: RequestPlace
) -> Explanation:
    admin, route = Admin(settings), place.service.route
    assert route is not None
    request, asked_ms = await _request(settings, admin, place)
    log = served_topic(place.service.name)
    batch, row = await _served(settings, admin, log, prediction_id, asked_ms)
    prediction: dict[str, Any] = {}
    async for answer in _find(settings, admin, route.predictions, prediction_id.encode(), asked_ms):
        prediction = msgspec.json.decode(answer)
        break
    told = {name: batch.column(name)[row].as_py() for name in batch.schema.names}
    metadata = batch.schema.metadata
    model, version = metadata[b"model"].decode(), told["model_version"]
    names: list[str] = msgspec.json.decode(metadata[b"features"])
    vector = np.array(told["features"], np.float32)
    scores, decision = None, told["score"] >= route.threshold
    output = 0
    if "scores" in told:
        classes: list[str] = msgspec.json.decode(metadata[b"classes"])
        scores = dict(zip(classes, told["scores"], strict=True))
        output = int(np.argmax(told["scores"]))
        decision = classes[output]
    parts, base, margin, why = _attributed(
        repository / model / version, names, vector, told["fallback"], output
    )
    return Explanation(
        prediction_id=prediction_id,
        service=place.service.name,
        entity={k.removeprefix("entity."): v for k, v in told.items() if k.startswith("entity.")},
        request_time_ms=told["request_time_ms"],
        request=request,
        model=model,
        model_version=version,
        variant=told["variant"],
        fallback=told["fallback"],
        score=told["score"],
        scores=scores,
        threshold=route.threshold,
        decision=prediction.get("decision", decision),
        stale_ms=told["stale_ms"],
        ahead_ms=told["ahead_ms"],
        latency_ms=prediction.get("latency_ms"),
        views=[
            _view(name.removeprefix("position."), position, told["request_time_ms"])
            for name, position in told.items()
            if name.startswith("position.")
        ],
        features=parts,
        base=base,
        margin=margin,
        not_attributed=why,
    )


async def _request(
    settings: Settings, admin: Admin, place: RequestPlace
) -> tuple[dict[str, Any] | None, int]:
    """The request as JSON, and its Kafka timestamp; None and 0 where it cannot be read."""
    if not admin.exists(place.topic) or not admin.topic_id(place.topic).startswith(place.topic_id):
        return None, 0
    ends = admin.end_offsets(place.topic)
    if place.offset >= ends.get(place.partition, 0):
        return None, 0
    async for chunk in read_to_end(settings, place.topic, {place.partition: place.offset}):
        at = int(np.searchsorted(chunk.offsets, place.offset))
        if at == len(chunk) or chunk.offsets[at] != place.offset:
            break
        value = chunk.value(at)
        try:
            return msgspec.json.decode(value or b"null", type=dict), int(chunk.timestamps[at])
        except msgspec.DecodeError:
            return None, int(chunk.timestamps[at])
    return None, 0


async def _served(
    settings: Settings, admin: Admin, topic: str, prediction_id: str, asked_ms: int
) -> tuple[pa.RecordBatch, int]:
    """The batch and the row in which the prediction is logged: the first, and no shadow's."""
    async for value in _find(settings, admin, topic, prediction_id.encode(), asked_ms):
        batch = read_served(value)
        variants = batch.column("variant").to_pylist()
        for row, logged in enumerate(batch.column("prediction_id").to_pylist()):
            if logged == prediction_id and variants[row] != SHADOW:
                return batch, row
    raise ConfigurationError(
        f"{topic!r} has no {prediction_id!r}: it was not logged (`served_log`), the broker has "
        "deleted it, or the request has not been answered yet"
    )


async def _find(
    settings: Settings, admin: Admin, topic: str, wanted: bytes, asked_ms: int
) -> AsyncIterator[bytes]:
    """Values of a topic that contain these bytes, looked for from the request on, then in all."""
    if not admin.exists(topic):
        return
    near = admin.offsets_since(topic, max(0, asked_ms - CLOCKS_MS))
    begin = dict.fromkeys(near, EARLIEST)
    for starts in (near, begin):
        async for chunk in read_to_end(settings, topic, starts):
            if wanted not in chunk.data.tobytes():
                continue
            for i in range(len(chunk)):
                value = chunk.value(i)
                if value is not None and wanted in value:
                    yield value


def _view(name: str, position: Mapping[str, int], request_time_ms: int) -> ViewRow:
    if position["as_of_ms"] == NO_ROW:
        return ViewRow(name, None, None, None, None)
    as_of = position["as_of_ms"]
    return ViewRow(
        name, position["incarnation"], position["offset"], as_of, request_time_ms - as_of
    )


def _attributed(
    version_dir: Path,
    names: list[str],
    vector: np.ndarray[Any, Any],
    fallback: str | None,
    output: int,
) -> tuple[list[FeaturePart], float | None, float | None, str | None]:
    """The parts, base and margin, or why there are none."""
    values = [None if np.isnan(v) else float(v) for v in vector]
    plain = [FeaturePart(name, value, None) for name, value in zip(names, values, strict=True)]
    if fallback == "default":
        return plain, None, None, "no model answered in time: the answer is the route's default"
    try:
        found = contributions(version_dir, vector, output)
    except ConfigurationError as error:
        return plain, None, None, str(error)
    parts = [
        FeaturePart(name, value, float(part))
        for name, value, part in zip(names, values, found.values, strict=True)
    ]
    parts.sort(key=lambda p: -abs(p.contribution or 0.0))
    return parts, found.base, found.margin, None
