"""What the windowed features of the flights repo must be, for any number of rows, in plain NumPy.

Every delay is a whole number of minutes and every instant one of milliseconds, so running sums of
them are exact, and the sum over a window is the difference of two of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

TIMES = {"departed": "departed_at", "arrived": "arrived_at"}


def archived(data: Path, kind: str) -> pd.DataFrame:
    """The events of a topic, with the columns that udfs add and the event time in ms, by time."""
    frame = pd.read_parquet(data / f"{kind}.parquet")
    frame["at"] = frame[TIMES[kind]].astype("datetime64[ms, UTC]").astype("int64")
    if kind == "departed":
        frame["left_late"] = (frame["dep_delay"] >= 15).astype("float64")
        frame["left_ms"] = frame["scheduled_departure"] + frame["dep_delay"] * 60_000.0
    else:
        frame["landed_ms"] = frame["scheduled_arrival"] + frame["arr_delay"] * 60_000.0
    return frame.sort_values("at", kind="stable").reset_index(drop=True)


def expected_history(store: Any, data: Path, asked: pd.DataFrame) -> dict[str, Any]:
    """`view__feature` -> values at the rows of `asked`, NaN for null."""
    events = {kind: archived(data, kind) for kind in TIMES}
    keys = {entity.name: entity.join_key for entity in store.list_entities()}
    times = asked["event_timestamp"].astype("datetime64[ms, UTC]").astype("int64").to_numpy()
    found: dict[str, Any] = {}
    for view in store.list_stream_feature_views():
        names = [keys[entity] for entity in view.entities]
        frame = events[view.stream_source.name]
        rows = asked.groupby(names, dropna=True).indices
        happened = frame.groupby(names, dropna=True).indices
        for a in view.aggregations:
            window, hop = (
                round(s.total_seconds() * 1e3) for s in (a.time_window, a.slide_interval)
            )
            values = np.full(len(asked), np.nan)
            column, at = frame[a.column].to_numpy(np.float64), frame["at"].to_numpy()
            if a.function == "count":
                # A null key has no features at all; one without events counts to nothing.
                values[asked[names].notna().all(axis=1).to_numpy()] = 0
            for key, wanted in rows.items():
                mine = happened.get(key)
                if mine is None:
                    continue
                mine = mine[~np.isnan(column[mine])]
                t = times[wanted]
                first = np.searchsorted(at[mine], (t - window) // hop * hop, "left")
                end = np.searchsorted(at[mine], t, "right")
                values[wanted] = _aggregated(a.function, column[mine], first, end)
            found[f"{view.name}__{a.name}"] = values
    return found


def _aggregated(function: str, values: Any, first: Any, end: Any) -> Any:
    n = end - first
    if function == "count":
        return n
    some = n >= (2 if function == "std" else 1)
    out = np.full(len(n), np.nan)
    if function == "last":
        out[some] = values[end[some] - 1]
    elif function == "max":
        out[some] = [values[a:b].max() for a, b in zip(first[some], end[some], strict=True)]
    else:
        total, squares = (np.concatenate([[0.0], np.cumsum(v)]) for v in (values, values**2))
        a, b, m = first[some], end[some], n[some]
        mean = (total[b] - total[a]) / m
        if function == "std":
            spread = squares[b] - squares[a] - m * mean**2
            out[some] = np.sqrt(np.maximum(spread, 0) / (m - 1))
        else:
            assert function == "mean"
            out[some] = mean
    return out
