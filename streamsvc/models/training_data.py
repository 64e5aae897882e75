"""Labels and point-in-time features: the matrix a model is fitted to.

Feast is imported when the features are read.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from streamsvc.columns import I64
from streamsvc.errors import ConfigurationError
from streamsvc.feast_import import import_feast
from streamsvc.models.artifact import F32

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TIME_COLUMN", "Examples", "matrix_of", "read_examples", "read_labels"]

TIME_COLUMN = "event_timestamp"


@dataclass(frozen=True, slots=True)
class Examples:
    """n labelled rows."""

    features: list[str]
    """`view:feature`, in the order of the matrix columns."""
    matrix: F32
    """[n, features]; missing is NaN."""
    labels: NDArray[np.bool_]
    event_ms: I64


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


def read_examples(repo: Path, service: str, labels: pd.DataFrame, label: str) -> Examples:
    """The features of a FeatureService at every labelled row.

    Raises ConfigurationError where the service is not applied, or a feature is not a number.
    """
    import_feast()
    from feast import FeatureStore

    with warnings.catch_warnings():
        # Feast calls stream and on-demand views experimental, once per process and view.
        warnings.simplefilter("ignore")
        return _read(FeatureStore(repo_path=str(repo)), service, labels, label)


def _read(store: Any, service: str, labels: pd.DataFrame, label: str) -> Examples:
    import pyarrow as pa
    from feast.errors import FeastObjectNotFoundException

    try:
        feast_service = store.get_feature_service(service)
    except FeastObjectNotFoundException as error:
        known = ", ".join(s.name for s in store.list_feature_services()) or "none"
        raise ConfigurationError(
            f"FeatureService {service!r} is not applied; there are: {known}. Run `feast apply`"
        ) from error
    features = _features(feast_service)
    # The label travels along, so that it stays with its row whatever the store does to the order.
    job = store.get_historical_features(labels, feast_service, full_feature_names=True)
    table = job.to_arrow()
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
