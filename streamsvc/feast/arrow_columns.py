"""Arrow arrays to columns and back, without a Python object per row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from streamsvc.columns import I64, BytesColumn, Column, NumericColumn
from streamsvc.definitions.plan import FieldType
from streamsvc.errors import ConfigurationError

__all__ = ["arrow_of", "column_from_arrow", "epoch_ms"]

_TARGETS = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.large_string()}
_PER_MS = {"us": 1_000, "ns": 1_000_000}


def column_from_arrow(array: Any, kind: FieldType, what: str) -> Column:
    """An Arrow array or chunked array as a column of that type; null and NaN are null.

    Numbers are converted only where nothing is lost. `what` names the array in the
    ConfigurationError that anything else raises.
    """
    flat = _flat(array)
    if kind == "bool":
        if not (pa.types.is_boolean(flat.type) or pa.types.is_null(flat.type)):
            raise _wrong_type(what, flat, kind)
        filled = pc.fill_null(flat.cast(pa.bool_()), False)
        return NumericColumn(filled.to_numpy(zero_copy_only=False), _valid(flat))
    if kind == "string" and not _is_text(flat.type):
        raise _wrong_type(what, flat, kind)
    if kind != "string" and not _is_number(flat.type):
        raise _wrong_type(what, flat, kind)
    try:
        if kind == "int64" and pa.types.is_floating(flat.type):
            # pandas has no null integer but NaN, which Arrow would not convert.
            flat = pc.if_else(pc.is_nan(flat), None, flat)
        flat = flat.cast(_TARGETS[kind])
    except pa.ArrowInvalid as error:
        raise ConfigurationError(f"{what} is not {kind}: {error}") from error
    if kind == "string":
        return _bytes_column(flat)
    valid = _valid(flat)
    values = pc.fill_null(flat, 0).to_numpy(zero_copy_only=False)
    if kind == "float64":
        missing = np.isnan(values)
        if missing.any():
            valid = valid & ~missing
            values = np.where(missing, 0.0, values)
    return NumericColumn(values, valid)


def epoch_ms(array: Any) -> NumericColumn:
    """Instants of an Arrow timestamp array, milliseconds since the epoch, rounded down.

    A timestamp without a zone is UTC, as everywhere in Feast.
    """
    flat = _flat(array)
    unit = flat.type.unit
    ticks = pc.fill_null(flat.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    ms = ticks * 1_000 if unit == "s" else ticks // _PER_MS.get(unit, 1)
    return NumericColumn(ms.astype(np.int64), _valid(flat))


def arrow_of(column: Column, dtype: Any) -> Any:
    """A column as an Arrow array of that type, null where it is null."""
    if isinstance(column, BytesColumn):
        return pa.array(column.to_pylist(), dtype)
    return pa.array(column.values, mask=~column.valid).cast(dtype)


def _flat(array: Any) -> Any:
    """One array without offset arithmetic left to do for its reader, dictionaries decoded."""
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
        if isinstance(array, pa.ChunkedArray):  # no chunks, or too large for one
            array = pa.concat_arrays(array.chunks) if array.chunks else pa.array([], array.type)
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _bytes_column(flat: Any) -> BytesColumn:
    n = len(flat)
    _, offset_buffer, data_buffer = flat.buffers()
    if n == 0 or data_buffer is None:
        nothing: I64 = np.zeros(n, np.int64)
        return BytesColumn(np.empty(0, np.uint8), nothing, nothing, _valid(flat))
    offsets = np.frombuffer(offset_buffer, np.int64)[flat.offset : flat.offset + n + 1]
    return BytesColumn(
        np.frombuffer(data_buffer, np.uint8), offsets[:-1], offsets[1:], _valid(flat)
    )


def _valid(flat: Any) -> Any:
    if flat.null_count == 0:
        return np.ones(len(flat), np.bool_)
    return pc.is_valid(flat).to_numpy(zero_copy_only=False)


def _is_number(dtype: Any) -> bool:
    types = pa.types
    return bool(
        types.is_integer(dtype)
        or types.is_floating(dtype)
        or types.is_decimal(dtype)
        or types.is_null(dtype)
    )


def _is_text(dtype: Any) -> bool:
    types = pa.types
    return bool(
        types.is_string(dtype)
        or types.is_large_string(dtype)
        or types.is_string_view(dtype)
        or types.is_null(dtype)
    )


def _wrong_type(what: str, flat: Any, kind: FieldType) -> ConfigurationError:
    return ConfigurationError(f"{what} is {flat.type}, and {kind} is declared")
