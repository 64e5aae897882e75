"""The same requests once more, from history: Feast's `get_historical_features`, the same model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from streamsvc.models.artifact import F32
from streamsvc.models.training_data import TIME_COLUMN, matrix_of
from streamsvc.scoring.served_log import read_served
from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.reader import EARLIEST, read_to_end

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["ServedVectors", "auc_score", "historical_vectors", "read_served_log", "requests_of"]


@dataclass(frozen=True, slots=True)
class ServedVectors:
    """The served log, one row per prediction id: the first that was written."""

    features: tuple[str, ...]
    row: Mapping[str, int]
    """Prediction id -> row of the matrix."""
    matrix: F32
    as_of_ms: Any
    request_time_ms: Any

    def future(self) -> int:
        """Vectors that hold something later than their request."""
        return int((self.as_of_ms > self.request_time_ms).sum())


def read_served_log(settings: Settings, topic: str) -> ServedVectors:
    """Everything on a served log."""
    batches = [read_served(raw) for raw in asyncio.run(_values(settings, topic))]
    row: dict[str, int] = {}
    kept: list[int] = []
    ids = [each for batch in batches for each in batch.column("prediction_id").to_pylist()]
    for at, prediction_id in enumerate(ids):
        if row.setdefault(prediction_id, len(kept)) == len(kept):
            kept.append(at)
    names: tuple[str, ...] = ()
    if batches:
        names = tuple(msgspec.json.decode(batches[0].schema.metadata[b"features"]))
    parts = [
        batch.column("features").flatten().to_numpy(zero_copy_only=False).reshape(-1, len(names))
        for batch in batches
    ]
    matrix = np.concatenate(parts) if parts else np.empty((0, 0), np.float32)

    def column(name: str) -> Any:
        found = [batch.column(name).to_numpy() for batch in batches]
        return np.concatenate(found)[kept] if found else np.empty(0, np.int64)

    return ServedVectors(names, row, matrix[kept], column("as_of_ms"), column("request_time_ms"))


def requests_of(labels: Path, span: tuple[int, int]) -> pd.DataFrame:
    """The labelled requests with span[0] <= request time < span[1], known outcome or not."""
    import pandas as pd

    frame = pd.read_parquet(labels)
    start, end = (pd.Timestamp(ms, unit="ms", tz="UTC") for ms in span)
    chosen = frame[(frame[TIME_COLUMN] >= start) & (frame[TIME_COLUMN] < end)]
    return chosen.reset_index(drop=True)


def historical_vectors(
    store: Any, service: str, requests: pd.DataFrame, features: list[str]
) -> F32:
    """The model's matrix for requests, in their order, as training reads it."""
    asked = requests.drop(columns=["arr_delay", "late"])
    job = store.get_historical_features(
        asked, store.get_feature_service(service), full_feature_names=True
    )
    table = job.to_arrow()
    # Stores may change the order of rows: put them back by flight.
    position = {flight: at for at, flight in enumerate(table.column("flight_id").to_pylist())}
    order = [position[flight] for flight in requests["flight_id"]]
    return matrix_of(table, features)[order]


def auc_score(late: Any, scores: Any) -> float:
    """Area under the ROC curve; NaN where the flights have but one outcome."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(late, scores)) if len(np.unique(late)) == 2 else float("nan")


async def _values(settings: Settings, topic: str) -> list[bytes]:
    starts = dict.fromkeys(range(Admin(settings).partitions(topic)), EARLIEST)
    found = []
    async for chunk in read_to_end(settings, topic, starts):
        found += [value for i in range(len(chunk)) if (value := chunk.value(i)) is not None]
    return found
