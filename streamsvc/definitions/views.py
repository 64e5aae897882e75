"""Feast StreamFeatureView -> View."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamsvc.definitions.plan import (
    LIFETIME_MS,
    Aggregate,
    FieldType,
    JoinKey,
    Source,
    View,
)
from streamsvc.definitions.row_by_row import try_udf
from streamsvc.definitions.validate import (
    check_features,
    check_function,
    check_tags,
    check_types,
    check_window,
    duration,
    field_types,
    join_keys_of,
    milliseconds,
    nearest,
)
from streamsvc.definitions.windows import LEAST_HOP_MS, definition_hash, udf_fingerprint

__all__ = ["compile_view"]


def compile_view(
    feast_view: Any, sources: Mapping[str, Source], broken: set[str], mistakes: list[str]
) -> View | None:
    """One windowed view, or None if it has a mistake; appends the mistakes.

    `broken` names the sources whose own mistakes are told already.
    """
    what = f"StreamFeatureView {feast_view.name!r}"
    stream = feast_view.stream_source
    wrong = check_tags(what, feast_view.tags, ())
    if stream is None or not hasattr(stream, "kafka_options"):
        wrong.append(
            f"{what}: its source is {'none' if stream is None else type(stream).__name__}; "
            f"streamed features need a KafkaSource."
        )
    join_keys = join_keys_of(what, feast_view, wrong)
    source = None if stream is None else sources.get(stream.name)
    if wrong or source is None:
        mistakes += wrong
        if not wrong and stream.name not in broken:
            mistakes.append(
                f"{what}: its source {stream.name!r} is not registered; run feast apply."
            )
        return None
    if feast_view.timestamp_field != source.schema.timestamp_field:
        wrong.append(
            f"{what}: timestamp_field is {feast_view.timestamp_field!r}, its source says "
            f"{source.schema.timestamp_field!r}; use the source's."
        )
    kinds = _columns(what, feast_view, source, wrong)
    if kinds is not None:
        _check_join_keys(what, join_keys, source, kinds, wrong)
    keys = {key.name for key in join_keys}
    declared = {f.name: str(f.dtype) for f in feast_view.features if f.name not in keys}
    ttl_ms = milliseconds(feast_view.ttl) if feast_view.ttl else None
    if feast_view.aggregations:
        computed = [a.resolved_name(a.time_window) for a in feast_view.aggregations]
        wrong += check_features(what, declared, computed)
        found = _aggregates(what, feast_view, source, kinds, declared, wrong)
        wrong += _check_ttl(what, ttl_ms, found)
    else:
        found = _latest(what, feast_view, source, kinds, declared, wrong)
    aggregates = tuple(sorted(found, key=lambda a: a.feature))
    mistakes += wrong
    if wrong or kinds is None:
        return None
    udf = feast_view.udf
    text = "" if udf is None else udf_fingerprint(udf, feast_view.udf_string)
    return View(
        name=feast_view.name,
        source=source,
        join_keys=join_keys,
        aggregates=aggregates,
        feature_types=dict(sorted(declared.items())),
        udf=udf,
        ttl_ms=ttl_ms,
        definition_hash=definition_hash(
            feast_view.name, source, join_keys, aggregates, declared, text
        ),
        column_types={a.column: kinds[a.column] for a in aggregates},
    )


def _columns(
    what: str, feast_view: Any, source: Source, mistakes: list[str]
) -> dict[str, FieldType] | None:
    """The columns that can be aggregated: the event's, or what the udf makes of them.

    A number that a udf makes is a float64, because whether it is whole depends on the rows; a
    column of the event keeps its type through a udf.
    """
    declared = field_types(source.schema)
    if feast_view.udf is None:
        return declared
    mode = str(getattr(feast_view.mode, "value", feast_view.mode)).lower()
    if mode != "pandas":
        mistakes.append(f"{what}: its udf has mode {mode!r}; use mode='pandas'.")
        return None
    found, wrong = try_udf(what, feast_view.udf, source.schema)
    kinds: dict[str, FieldType] = {}
    for name, kind in found.items():
        kinds[name] = declared.get(name, "string" if kind == "string" else "float64")
        if name != source.schema.timestamp_field and not _holds(kinds[name], kind):
            wrong.append(
                f"{what}: its udf turns column {name!r} from {declared[name]} into {kind}; give "
                f"the result a name of its own."
            )
    mistakes += wrong
    return None if wrong else kinds


def _holds(declared: FieldType, made: FieldType) -> bool:
    wider: tuple[FieldType, ...] = ("bool", "int64", "float64")
    if "string" in (declared, made):
        return declared == made
    return wider.index(made) <= wider.index(declared)


def _check_join_keys(
    what: str,
    join_keys: tuple[JoinKey, ...],
    source: Source,
    kinds: Mapping[str, FieldType],
    mistakes: list[str],
) -> None:
    for key in join_keys:
        kind = kinds.get(key.name)
        if kind is None and key.name in field_types(source.schema):
            mistakes.append(f"{what}: its udf drops entity column {key.name!r}; return it too.")
        elif kind is None:
            mistakes.append(
                f"{what}: entity column {key.name!r} is not in the schema of KafkaSource "
                f"{source.name!r}; {nearest(key.name, kinds)}"
            )
        elif kind != key.type:
            mistakes.append(
                f"{what}: entity column {key.name!r} is {key.type}, but {kind} in the events; "
                f"declare the entity's value_type accordingly."
            )


def _aggregates(
    what: str,
    feast_view: Any,
    source: Source,
    kinds: Mapping[str, FieldType] | None,
    declared: Mapping[str, str],
    mistakes: list[str],
) -> list[Aggregate]:
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


def _latest(
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


def _check_ttl(what: str, ttl_ms: int | None, aggregates: list[Aggregate]) -> list[str]:
    longest = max((a.window_ms for a in aggregates), default=0)
    if ttl_ms is None or ttl_ms >= longest:
        return []
    reach = "that never ends" if longest == LIFETIME_MS else f"of {duration(longest)}"
    remedy = "" if longest == LIFETIME_MS else "set ttl to at least the window, or "
    return [
        f"{what}: its ttl of {duration(ttl_ms)} is shorter than its window {reach}, so values "
        f"would vanish while they still hold; {remedy}leave it out."
    ]
