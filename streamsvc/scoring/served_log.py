"""The served log: every vector that a model was given, as columns, for parity, drift, retraining.

One record is one Arrow IPC stream with one batch of one variant. Columns:

    prediction_id                  string
    entity.<join key>              int64 or string
    request_time_ms, as_of_ms      int64; as_of_ms is -1 where no feature row was found
    stale_ms, ahead_ms             int64; as in the prediction
    position.<view>                struct {incarnation, offset, as_of_ms} of int64; -1 without a row
    features                       fixed-size list of float32, in the model's order
    score                          float32; of a model of classes, that of the most probable one
    scores                         fixed-size list of float32, one a class; only of such a model
    model_version, variant, fallback   string; fallback is null for the model server
    failed                         bool: a model server was asked and had no usable answer
    model_ms                       float32: how long the batch waited for the model

The schema's metadata names `service`, `model` and, as JSON lists, `features` and, where there are
scores, `classes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from streamsvc.columns import BytesColumn, Column
from streamsvc.scoring.records import Predictions
from streamsvc.scoring.vectors import Vectors

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MAX_RECORD_BYTES", "read_served", "served_records"]

MAX_RECORD_BYTES = 512 * 1024
"""A longer batch becomes several records: brokers and clients refuse more than 1 MB by default."""


def served_records(
    predictions: Predictions, ids: BytesColumn, vectors: Vectors, features: Sequence[str]
) -> list[bytes]:
    """The records of one batch of predictions; `features` names the columns of the matrix."""
    if not len(predictions):
        return []
    batch = _batch(predictions, ids, vectors, features)
    whole = _encoded(batch)
    if len(whole) <= MAX_RECORD_BYTES:
        return [whole]
    rows = max(1, len(predictions) * MAX_RECORD_BYTES // len(whole))
    return [_encoded(part) for part in _slices(batch, rows)]


def read_served(raw: bytes) -> pa.RecordBatch:
    """The batch in one record of a served log."""
    import pyarrow as pa

    with pa.ipc.open_stream(raw) as reader:
        return reader.read_next_batch()


def _batch(
    p: Predictions, ids: BytesColumn, vectors: Vectors, features: Sequence[str]
) -> pa.RecordBatch:
    import pyarrow as pa

    columns: dict[str, Any] = {"prediction_id": pa.array(ids.to_bytes_list(), pa.string())}
    for name, column in p.entity.items():
        columns[f"entity.{name}"] = _arrow(column)
    columns["request_time_ms"] = pa.array(p.request_time_ms)
    columns["as_of_ms"] = pa.array(p.as_of_ms)
    columns["stale_ms"] = pa.array(p.stale_ms)
    columns["ahead_ms"] = pa.array(p.ahead_ms)
    for view, position in vectors.positions.items():
        parts = [pa.array(c) for c in (position.incarnation, position.offset, position.as_of)]
        columns[f"position.{view}"] = pa.StructArray.from_arrays(
            parts, ["incarnation", "offset", "as_of_ms"]
        )
    columns["features"] = pa.FixedSizeListArray.from_arrays(
        pa.array(vectors.matrix.reshape(-1)), vectors.matrix.shape[1]
    )
    columns["score"] = pa.array(p.score)
    if p.classes:
        columns["scores"] = pa.FixedSizeListArray.from_arrays(
            pa.array(p.scores.reshape(-1)), len(p.classes)
        )
    columns["model_version"] = pa.repeat(p.model_version, len(p))
    columns["variant"] = pa.repeat(p.variant, len(p))
    columns["fallback"] = pa.array(p.fallback, pa.string())
    columns["failed"] = pa.array(p.failed)
    columns["model_ms"] = pa.repeat(pa.scalar(p.stage_ms["model"], pa.float32()), len(p))
    return pa.RecordBatch.from_arrays(
        list(columns.values()),
        schema=pa.schema(
            [pa.field(name, array.type) for name, array in columns.items()],
            metadata=_metadata(p, features),
        ),
    )


def _metadata(p: Predictions, features: Sequence[str]) -> Mapping[str, bytes]:
    found = {
        "service": p.service.encode(),
        "model": p.model.encode(),
        "features": msgspec.json.encode(list(features)),
    }
    if p.classes:
        found["classes"] = msgspec.json.encode(list(p.classes))
    return found


def _arrow(column: Column) -> Any:
    import pyarrow as pa

    if isinstance(column, BytesColumn):
        return pa.array(column.to_pylist(), pa.string())
    return pa.array(column.values, mask=~column.valid)


def _slices(batch: pa.RecordBatch, rows: int) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, rows):
        yield batch.slice(start, rows)


def _encoded(batch: pa.RecordBatch) -> bytes:
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())
