"""A view by one key, and records of its shuffle whose rows follow from their source offsets."""

from __future__ import annotations

import numpy as np

from streamsvc.columns import numeric, strings
from streamsvc.definitions.plan import Aggregate, EventSchema, JoinKey, Source, View
from streamsvc.entity_keys import encode_entity_keys
from streamsvc.features.rows import EntityRows, column_types
from streamsvc.features.spec import WindowSpec
from streamsvc.state.shuffle import Section, Span

SOURCE = Source("s", "t", EventSchema((), "at"), 0, 0, None, None)
VIEW = View(
    "v",
    SOURCE,
    (JoinKey("k", "string"),),
    (Aggregate("n", "x", "count", 60_000, 1_000), Aggregate("s", "x", "sum", 60_000, 1_000)),
    {"n": "Int64", "s": "Float64"},
    None,
    None,
    "h",
)
SPEC = WindowSpec.of(VIEW.aggregates, column_types(VIEW))


def rows(partition: int, low: int, high: int) -> EntityRows:
    """Rows of source offsets low … high - 1; the key and the value follow from the offset."""
    offsets = np.arange(low, high)
    keys = [f"k{(7 * o + partition) % 5}" for o in offsets]
    values = numeric([float(1 + o + 100 * partition) for o in offsets] or [0.0])
    return EntityRows(
        encode_entity_keys([strings(keys)]),
        1_000 + offsets,
        np.full(len(offsets), partition),
        offsets,
        {"x": values.take(np.arange(len(offsets)))},
    )


def section(partition: int, low: int, high: int) -> Section:
    spans = (span(partition, low, high),)
    return Section(VIEW.name, 1, spans, rows(partition, low, high))


def span(partition: int, low: int, high: int) -> Span:
    return Span(partition, low, high, 1_000 + high, True, 1)
