"""On-demand views: the user's own function on a batch of requests and their features.

The frame is what Feast would hand it: request fields and source features under their short names;
an integer column is int64, or float64 with NaN where this batch holds a null; text is str or None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from streamsvc.columns import BytesColumn, Column, Columns
from streamsvc.definitions.plan import OnDemandView
from streamsvc.scoring.model import F32

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Computed", "run_on_demand"]


@dataclass(frozen=True, slots=True)
class Computed:
    """What one on-demand view made of n requests."""

    features: Mapping[str, F32]
    """Feature -> shape (n,), missing is NaN."""
    failed: Mapping[int, str]
    """Row -> why the function failed on it; its features are NaN."""


def run_on_demand(
    view: OnDemandView, n: int, columns: Columns, source_features: Mapping[str, Column]
) -> Computed:
    """Run a view on n requests.

    `columns` are the requests' fields, `source_features` the features it takes by short name. Where
    the function fails, the batch is halved until the rows that it fails on are alone.
    """
    import pandas as pd

    inputs = {name: columns[name] for name in view.request_fields} | dict(source_features)

    def frame(start: int, stop: int) -> pd.DataFrame:
        # Made anew for every try: what the function did to it must not reach the next one.
        series = {name: _series(column)[start:stop] for name, column in inputs.items()}
        return pd.DataFrame(series, index=pd.RangeIndex(stop - start), copy=True)

    features = {name: np.full(n, np.nan, np.float32) for name in view.features}
    failed: dict[int, str] = {}
    pending = [(0, n)] if n else []
    while pending:
        start, stop = pending.pop()
        try:
            result = _checked(view, view.transform(frame(start, stop)), stop - start)
        except Exception as error:  # noqa: BLE001 - the function is the user's, and may raise anything
            if stop - start == 1:
                failed[start] = f"on-demand view {view.name!r}: {type(error).__name__}: {error}"
            else:
                middle = (start + stop) // 2
                pending += [(start, middle), (middle, stop)]
            continue
        for name, values in result.items():
            features[name][start:stop] = values
    return Computed(features, failed)


def _checked(view: OnDemandView, result: pd.DataFrame, n: int) -> dict[str, F32]:
    missing = [name for name in view.features if name not in result]
    if missing:
        raise ValueError(f"the result has no column {', '.join(missing)}")
    if len(result) != n:
        raise ValueError(f"{len(result)} rows came back for {n}")
    with np.errstate(over="ignore"):  # beyond float32 is infinity
        return {name: result[name].to_numpy(np.float32, na_value=np.nan) for name in view.features}


def _series(column: Column) -> Any:
    if isinstance(column, BytesColumn):
        return np.array(column.to_pylist(), object)
    if column.valid.all():
        return column.values
    if column.values.dtype == np.bool_:
        values = column.values.astype(object)
        values[~column.valid] = None
        return values
    return np.where(column.valid, column.values, np.nan)
