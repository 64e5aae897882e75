"""Feast StreamFeatureView -> View."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamsvc.definitions.aggregates import check_ttl, latest_row, windowed_aggregates
from streamsvc.definitions.plan import (
    FieldType,
    JoinKey,
    Source,
    View,
)
from streamsvc.definitions.row_by_row import try_udf
from streamsvc.definitions.updates import UPDATES, UPDATES_PER, parse_updates
from streamsvc.definitions.validate import (
    check_features,
    check_tags,
    field_types,
    join_keys_of,
    milliseconds,
    nearest,
)
from streamsvc.definitions.windows import definition_hash, udf_fingerprint

__all__ = ["compile_view"]


def compile_view(
    feast_view: Any, sources: Mapping[str, Source], broken: set[str], mistakes: list[str]
) -> View | None:
    """One windowed view, or None if it has a mistake; appends the mistakes.

    `broken` names the sources whose own mistakes are told already.
    """
    what = f"StreamFeatureView {feast_view.name!r}"
    stream = feast_view.stream_source
    wrong = check_tags(what, feast_view.tags, (UPDATES, UPDATES_PER))
    updates = parse_updates(what, feast_view.tags, wrong)
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
        found = windowed_aggregates(what, feast_view, source, kinds, declared, wrong)
        wrong += check_ttl(what, ttl_ms, found)
    else:
        found = latest_row(what, feast_view, source, kinds, declared, wrong)
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
        udf_text=text,
        updates=updates,
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
