"""Compile the engine's kernels ahead, so that no event waits for a compiler."""

from __future__ import annotations

import numpy as np

from streamsvc.columns import Column, numeric, strings
from streamsvc.definitions.plan import Aggregate, FieldType
from streamsvc.features.engine import WindowState
from streamsvc.features.history import features_at
from streamsvc.features.spec import WindowSpec
from streamsvc.features.tile_batch import TileBatch
from streamsvc.record_text import filled, members

__all__ = ["warm"]


def warm() -> None:
    """Run every kernel once. From the disk cache this takes under a second, else half a minute."""
    types: dict[str, FieldType] = {"value": "float64", "text": "string"}
    spec = WindowSpec.of(
        [Aggregate("warm", "value", "sum", 2, 1), Aggregate("text", "text", "last", 2, 1)], types
    )
    state = WindowState(spec)
    keys, at, zeros = strings(["key"]), np.array([1]), np.array([0])
    columns: dict[str, Column] = {"value": numeric([1.0]), "text": strings(["text"])}
    state.apply(keys, at, zeros, zeros, columns)
    state.apply_each(keys, at, zeros, zeros, columns)
    state.emit()
    state.mark_all_changed()
    changed = state.take_changed_tiles()
    state.take_next(1)
    state.advance(10)
    state.age()
    again = WindowState(spec)
    again.load(TileBatch.from_bytes(changed.to_bytes()))
    again.load(state.snapshot())
    features_at(spec, keys, at, zeros, zeros, columns, keys, at)
    filled(*members(columns))
