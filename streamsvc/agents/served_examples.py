"""Examples for training from the served log: the vectors as a model was given them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamsvc.columns import I64
from streamsvc.definitions.plan import Service
from streamsvc.errors import ConfigurationError
from streamsvc.models.artifact import F32
from streamsvc.models.training_data import TIME_COLUMN, Examples
from streamsvc.scoring.served_log import read_served
from streamsvc.scoring.traffic import SHADOW
from streamsvc.settings import Settings
from streamsvc.state.topics import served_topic
from streamsvc.transport.admin import Admin
from streamsvc.transport.reader import EARLIEST, read_to_end

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

__all__ = ["ServedExamples", "served_examples"]

PREDICTION_ID = "prediction_id"


@dataclass(frozen=True, slots=True)
class ServedExamples:
    """Examples in the order of their requests, and what was left out of them."""

    examples: Examples
    left_out: Mapping[str, int]
    """Reason -> labels."""


def served_examples(
    settings: Settings, service: Service, labels: pd.DataFrame, label: str
) -> ServedExamples:
    """The vectors that were served, of the labelled requests.

    Labels are joined by `prediction_id` where they have that column, else by the join keys and
    `event_timestamp`, the request's own time. Of a prediction that was repeated the first counts;
    a shadow's does not. Raises ConfigurationError if the log holds none of them.
    """
    topic, features = served_topic(service.name), [str(ref) for ref in service.features]
    parts = asyncio.run(_read(settings, topic, labels, features))
    used = _together([part.rows for part in parts if part.matrix is not None])
    times = _together([part.times for part in parts if part.matrix is not None])
    rows, first = np.unique(used, return_index=True)
    other = np.setdiff1d(_together([part.rows for part in parts if part.matrix is None]), rows)
    left_out = {
        "served without a feature that the service has now": len(other),
        "not in the served log": len(labels) - len(rows) - len(other),
    }
    if not len(rows):
        why = ", ".join(f"{n:,} {reason}" for reason, n in left_out.items())
        raise ConfigurationError(f"No label has a vector in {topic!r}: {why}")
    order = first[np.argsort(times[first], kind="stable")]
    known = labels[label].to_numpy().astype(np.bool_)[used[order]]
    matrix = np.concatenate([part.matrix for part in parts if part.matrix is not None])
    examples = Examples(features, matrix[order], known, times[order])
    return ServedExamples(examples, {reason: n for reason, n in left_out.items() if n})


@dataclass(frozen=True, slots=True)
class _Part:
    """The labelled predictions in one record of the log."""

    rows: I64
    """Of the labels."""
    times: I64
    matrix: F32 | None
    """None where the model read other features."""


async def _read(
    settings: Settings, topic: str, labels: pd.DataFrame, features: Sequence[str]
) -> list[_Part]:
    by_id, wanted, found = PREDICTION_ID in labels.columns, None, []
    async for batch in _batches(settings, topic):
        if wanted is None:
            wanted = _ids(labels) if by_id else _entities(labels, batch)
        found.append(_labelled(batch, wanted, features, by_id=by_id))
    return found


async def _batches(settings: Settings, topic: str) -> AsyncIterator[pa.RecordBatch]:
    admin = Admin(settings)
    if not admin.exists(topic):
        raise ConfigurationError(f"There is no {topic!r}: nothing has been served, or not logged")
    starts = dict.fromkeys(range(admin.partitions(topic)), EARLIEST)
    async for chunk in read_to_end(settings, topic, starts):
        for i in range(len(chunk)):
            value = chunk.value(i)
            if value is not None:
                yield read_served(value)


def _labelled(batch: pa.RecordBatch, wanted: Any, features: Sequence[str], *, by_id: bool) -> _Part:
    import pyarrow.compute as pc

    keys = batch.column(PREDICTION_ID) if by_id else _keys(batch)
    label = pc.fill_null(pc.index_in(keys, wanted), -1).to_numpy().astype(np.int64)
    shadow = pc.equal(batch.column("variant"), SHADOW).to_numpy(zero_copy_only=False)
    at = np.flatnonzero((label >= 0) & ~shadow)
    rows, times = label[at], batch.column("request_time_ms").to_numpy()[at]
    names: list[str] = msgspec.json.decode(batch.schema.metadata[b"features"])
    if not set(features) <= set(names):
        return _Part(rows, times, None)
    matrix = batch.column("features").flatten().to_numpy().reshape(len(batch), len(names))
    chosen = np.array([names.index(name) for name in features])
    return _Part(rows, times, matrix[np.ix_(at, chosen)])


def _ids(labels: pd.DataFrame) -> Any:
    import pyarrow as pa

    return pa.array(labels[PREDICTION_ID], pa.string())


def _entities(labels: pd.DataFrame, batch: pa.RecordBatch) -> Any:
    """Labels as texts of join keys and time, in the form of `_keys`."""
    import pyarrow as pa

    names = [name.removeprefix("entity.") for name in _entity_columns(batch)]
    for name in (*names, TIME_COLUMN):
        if name not in labels.columns:
            raise ConfigurationError(
                f"The labels have no column {name!r}: they are joined with the served log by "
                f"{PREDICTION_ID}, or by {', '.join(names)} and {TIME_COLUMN}"
            )
    times = pa.array(labels[TIME_COLUMN].dt.as_unit("ms").astype(np.int64))
    return _joined([*(pa.array(labels[name]) for name in names), times])


def _keys(batch: pa.RecordBatch) -> Any:
    entity = [batch.column(name) for name in _entity_columns(batch)]
    return _joined([*entity, batch.column("request_time_ms")])


def _entity_columns(batch: pa.RecordBatch) -> list[str]:
    return [name for name in batch.schema.names if name.startswith("entity.")]


def _joined(columns: Sequence[Any]) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = [pc.fill_null(column.cast(pa.string()), "") for column in columns]
    return pc.binary_join_element_wise(*texts, "\x1f")


def _together(parts: Sequence[I64]) -> I64:
    return np.concatenate([np.empty(0, np.int64), *parts])
