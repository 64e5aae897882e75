"""Records of the served log → calls, and requests that labels may be about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamsvc.columns import F64, I64, Bools
from streamsvc.models.calls import Calls
from streamsvc.models.label_join import Served, hashed

__all__ = ["LoggedBatches"]

_OWN = ("in-process",)
"""Fallbacks that are the same model elsewhere."""
_COLUMNS = ("prediction_id", "request_time_ms", "score", "fallback", "failed", "model_ms")


class LoggedBatches:
    """Batches of one variant: gathered as they come, and worked out together."""

    def __init__(self, edges: Sequence[float], entity: Sequence[str] | None) -> None:
        """`entity` names the columns that labels are joined by; None for the prediction_id."""
        self._edges = edges
        self._entity = entity
        self._columns = [*_COLUMNS, *(entity or ())]
        self._batches: list[pa.RecordBatch] = []
        self._at_ms: list[int] = []

    def add(self, batch: pa.RecordBatch, at_ms: int) -> None:
        """One record, with its Kafka timestamp."""
        self._batches.append(batch.select(self._columns))
        self._at_ms.append(at_ms)

    def take(self) -> tuple[Calls, Served, F64] | None:
        """The calls since the last time, and their requests that the model itself has scored, whose
        `champion` and `candidate` are not filled in, with these scores. None if there were none."""
        if not self._batches:
            return None
        rows = np.array([batch.num_rows for batch in self._batches])
        at_ms = np.array(self._at_ms)
        table = pa.Table.from_batches(self._batches).combine_chunks()
        self._batches, self._at_ms = [], []
        fallback = table["fallback"]
        own = _flags(pc.or_(fallback.is_null(), pc.is_in(fallback, pa.array(_OWN))))
        scores: F64 = table["score"].to_numpy().astype(np.float64)
        start = np.concatenate([[0], np.cumsum(rows)[:-1]])
        calls = Calls(
            edges=self._edges,
            at_ms=at_ms,
            rows=rows,
            ms=table["model_ms"].to_numpy()[start].astype(np.float64),
            failed=np.logical_or.reduceat(_flags(table["failed"]), start),
            fallbacks=np.add.reduceat(_flags(fallback.is_valid()).astype(np.int64), start),
            counts=self._counted(scores, own, np.repeat(np.arange(len(rows)), rows), len(rows)),
        )
        for name in self._entity or ():
            own &= _flags(table[name].is_valid())
        return calls, self._served(table.filter(pa.array(own))), scores[own]

    def _counted(self, scores: F64, own: Bools, call: I64, calls: int) -> I64:
        bins = len(self._edges) + 1
        own = own & ~np.isnan(scores)
        which = np.searchsorted(np.array(self._edges, np.float32), scores[own], side="right")
        counts = np.bincount(call[own] * bins + which, minlength=calls * bins)
        return counts.reshape(calls, bins)

    def _served(self, table: pa.Table) -> Served:
        def plain(name: str) -> np.ndarray:
            return np.asarray(table[name].to_numpy(zero_copy_only=False))

        ids = hashed([plain("prediction_id")])
        key = ids if self._entity is None else hashed([plain(name) for name in self._entity])
        nothing = np.full(len(ids), np.nan)
        return Served(ids, key, plain("request_time_ms"), nothing, nothing)


def _flags(column: pa.ChunkedArray) -> Bools:
    found: Bools = column.to_numpy(zero_copy_only=False)
    return found
