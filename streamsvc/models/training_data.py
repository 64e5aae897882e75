"""Labels and point-in-time features: the matrix a model is fitted to.

Feast is imported when the features are read.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import I64
from streamsvc.errors import ConfigurationError
from streamsvc.feast_import import import_feast
from streamsvc.models.artifact import F32
from streamsvc.models.spool import Spool

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TIME_COLUMN", "Examples", "matrix_of", "read_examples", "read_labels"]

TIME_COLUMN = "event_timestamp"
ROW = "streamsvc_row"
BYTES_PER_VALUE = 32
"""What a value takes on its way to a float32: a double of DuckDB's, of Arrow's, of Feast's."""


@dataclass(frozen=True, slots=True)
class Examples:
    """n labelled rows."""

    features: list[str]
    """`view:feature`, in the order of the matrix columns."""
    matrix: F32
    """[n, features]; missing is NaN."""
    labels: NDArray[np.bool_]
    event_ms: I64
    pages: Path | None = None
    """Where boosting may put what does not fit into memory; None where the matrix is in memory."""

    def rows(self, chosen: I64) -> F32:
        """Rows of the matrix: a view where they lie together, as all parts of a set on disk do."""
        if len(chosen) and np.array_equal(chosen, np.arange(chosen[0], chosen[0] + len(chosen))):
            return self.matrix[chosen[0] : chosen[-1] + 1]
        return self.matrix[chosen]


def read_labels(path: Path, label: str) -> pd.DataFrame:
    """The labelled rows of a Parquet or CSV file: entity keys, `event_timestamp`, request fields.

    Rows without a label are left out: what they were is not known. Raises ConfigurationError that
    names the missing file or column, or the label that is neither true nor false.
    """
    import pandas as pd
    import pyarrow as pa

    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, pa.ArrowInvalid, ValueError) as error:
        raise ConfigurationError(f"The labels {path} cannot be read: {error}") from error
    for column in (TIME_COLUMN, label):
        if column not in frame.columns:
            raise ConfigurationError(
                f"The labels {path} have no column {column!r}; they have {', '.join(frame.columns)}"
            )
    frame = frame[frame[label].notna()]
    try:
        values = frame[label].astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"Label {label!r} of {path} is no number: {error}") from error
    if not values.isin([0.0, 1.0]).all():
        raise ConfigurationError(f"Label {label!r} of {path} must be 0 or 1, true or false")
    frame = frame.reset_index(drop=True)
    frame[label] = (values == 1.0).to_numpy()
    frame[TIME_COLUMN] = pd.to_datetime(frame[TIME_COLUMN], utc=True)
    return frame


def read_examples(
    repo: Path, service: str, labels: pd.DataFrame, label: str, memory_mb: int, folder: Path
) -> Examples:
    """The features of a FeatureService at every labelled row, in the order of time.

    What takes more than `memory_mb` is read a part at a time, and kept in `folder`. Raises
    ConfigurationError where the service is not applied, or a feature is not a number.
    """
    import_feast()
    from feast import FeatureStore

    with warnings.catch_warnings():
        # Feast calls stream and on-demand views experimental, once per process and view.
        warnings.simplefilter("ignore")
        store = FeatureStore(repo_path=str(repo))
        feast_service = _service(store, service)
        labels = labels.sort_values(TIME_COLUMN, kind="stable", ignore_index=True)
        width = len(_features(feast_service))
        part_rows = max(1, memory_mb * 2**20 // (BYTES_PER_VALUE * width))
        if len(labels) <= part_rows:
            return _read(store, feast_service, labels, label)
        spool = Spool(folder, width)
        parts = []
        for start in range(0, len(labels), part_rows):
            part = labels.iloc[start : start + part_rows].reset_index(drop=True)
            read = _read(store, feast_service, part, label)
            spool.add(read.matrix)
            parts.append(replace(read, matrix=read.matrix[:0]))
        return replace(
            parts[0],
            matrix=spool.matrix(),
            labels=np.concatenate([part.labels for part in parts]),
            event_ms=np.concatenate([part.event_ms for part in parts]),
            pages=folder,
        )


def _service(store: Any, service: str) -> Any:
    from feast.errors import FeastObjectNotFoundException

    try:
        return store.get_feature_service(service)
    except FeastObjectNotFoundException as error:
        known = ", ".join(s.name for s in store.list_feature_services()) or "none"
        raise ConfigurationError(
            f"FeatureService {service!r} is not applied; there are: {known}. Run `feast apply`"
        ) from error


def _read(store: Any, feast_service: Any, labels: pd.DataFrame, label: str) -> Examples:
    import pyarrow as pa

    features = _features(feast_service)
    # The number travels along: a store may give the rows back in any order.
    numbered = labels.assign(**{ROW: np.arange(len(labels))})
    job = store.get_historical_features(numbered, feast_service, full_feature_names=True)
    table = job.to_arrow().sort_by(ROW)
    times = table.column(TIME_COLUMN).cast(pa.timestamp("ms", "UTC"), safe=False)
    return Examples(
        features,
        matrix_of(table, features),
        table.column(label).to_numpy().astype(np.bool_),
        times.cast(pa.int64()).to_numpy().astype(np.int64),
    )


def matrix_of(table: Any, features: list[str]) -> F32:
    """The columns `view__feature` of an Arrow table as float32 [n, features]; null is NaN."""
    import pyarrow as pa

    matrix = np.empty((table.num_rows, len(features)), np.float32)
    for i, feature in enumerate(features):
        column = table.column(feature.replace(":", "__", 1))
        try:
            floats = column.cast(pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise ConfigurationError(
                f"Feature {feature} is {column.type}, and a model takes numbers: leave it out of "
                "the FeatureService, or turn it into a number in an on-demand view"
            ) from error
        matrix[:, i] = floats.to_numpy()
    return matrix


def _features(feast_service: Any) -> list[str]:
    # Feast lists the features of a view in no stable order, so their order is ours to fix.
    return [
        f"{projection.name_to_use()}:{name}"
        for projection in feast_service.feature_view_projections
        for name in sorted(feature.name for feature in projection.features)
    ]
