"""The aggregates of a view: those it declares, or its latest row if it declares none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamsvc.definitions.plan import LIFETIME_MS, Aggregate, FieldType, Source
from streamsvc.definitions.validate import (
    check_function,
    check_types,
    check_window,
    duration,
    milliseconds,
    nearest,
)
from streamsvc.definitions.windows import LEAST_HOP_MS

__all__ = ["check_ttl", "latest_row", "windowed_aggregates"]


def windowed_aggregates(
    what: str,
    feast_view: Any,
    source: Source,
    kinds: Mapping[str, FieldType] | None,
    declared: Mapping[str, str],
    mistakes: list[str],
) -> list[Aggregate]:
    """Those of a view with aggregations that have no mistake; appends the mistakes."""
    found = []
    tiling = feast_view.tiling_hop_size
    tiling_ms = milliseconds(tiling) if tiling else None
    for aggregation in feast_view.aggregations:
        name = aggregation.resolved_name(aggregation.time_window)
        which = f"{what}, feature {name!r}"
        column, function = aggregation.column, aggregation.function
        wrong = check_function(which, function)
        if kinds is not None and column not in kinds:
            wrong.append(f"{which}: there is no column {column!r}; {nearest(column, kinds)}")
        elif kinds is not None and not wrong and name in declared:
            wrong += check_types(which, function, kinds[column], declared[name])
            if column == source.schema.timestamp_field and function != "count":
                wrong += _check_time(which, function, kinds[column])
        window_ms = hop_ms = LIFETIME_MS
        slide = aggregation.slide_interval
        if aggregation.time_window is not None:
            window_ms = milliseconds(aggregation.time_window)
            try:
                hop_ms = check_window(
                    which, window_ms, milliseconds(slide) if slide else None, tiling_ms
                )
            except ValueError as error:
                wrong.append(str(error))
        elif slide:
            wrong.append(f"{which}: has a slide_interval and no time_window; set both or none.")
        mistakes += wrong
        if not wrong:
            found.append(Aggregate(name, column, function, window_ms, hop_ms))
    return found


def _check_time(which: str, function: str, kind: FieldType) -> list[str]:
    """Text of an event time is not kept in an archive, only the instant is."""
    if kind != "string":
        return []
    return [
        f"{which}: {function} of the event time's text, which history does not know; only count "
        f"takes it, and a number made of it by a udf takes anything."
    ]


def latest_row(
    what: str,
    feast_view: Any,
    source: Source,
    kinds: Mapping[str, FieldType] | None,
    declared: Mapping[str, str],
    mistakes: list[str],
) -> list[Aggregate]:
    """Every column of the schema as it stands in an entity's newest row.

    With a ttl, of at least a second, that is the newest row in a window of that length.
    """
    wrong: list[str] = []
    window_ms = hop_ms = LIFETIME_MS
    if feast_view.ttl:
        tiling = feast_view.tiling_hop_size
        window_ms = max(LEAST_HOP_MS, milliseconds(feast_view.ttl))
        try:
            hop_ms = check_window(
                f"{what}, its ttl", window_ms, None, milliseconds(tiling) if tiling else None
            )
        except ValueError as error:
            wrong.append(str(error))
    if not declared:
        wrong.append(
            f"{what}: has no aggregations, so it keeps the latest row, and no column of it in its "
            f"schema; add Field(name=…, dtype=…) for each column to keep."
        )
    for name, dtype in declared.items():
        which = f"{what}, feature {name!r}"
        if name == source.schema.timestamp_field:
            wrong.append(f"{which}: is the event time, which no feature holds; leave it out.")
        elif kinds is not None and name not in kinds:
            wrong.append(
                f"{which}: without aggregations a feature is a column, and there is none of that "
                f"name; {nearest(name, kinds)}"
            )
        elif kinds is not None:
            wrong += check_types(which, "latest", kinds[name], dtype)
    mistakes += wrong
    if wrong:
        return []
    return [Aggregate(name, name, "latest", window_ms, hop_ms) for name in declared]


def check_ttl(what: str, ttl_ms: int | None, aggregates: list[Aggregate]) -> list[str]:
    """Whether rows would go while their values hold."""
    longest = max((a.window_ms for a in aggregates), default=0)
    if ttl_ms is None or ttl_ms >= longest:
        return []
    reach = "that never ends" if longest == LIFETIME_MS else f"of {duration(longest)}"
    remedy = "" if longest == LIFETIME_MS else "set ttl to at least the window, or "
    return [
        f"{what}: its ttl of {duration(ttl_ms)} is shorter than its window {reach}, so values "
        f"would vanish while they still hold; {remedy}leave it out."
    ]
