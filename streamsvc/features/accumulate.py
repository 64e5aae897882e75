"""One value into a tile.

Variance follows Welford (Technometrics 1962): mean and sum of squared deviations, so that nothing
is ever taken out of a sum again. `first` and `last` keep (event time, partition, offset, value).
"""

from __future__ import annotations

import numpy as np

from streamsvc.columns import F64, I64, Bools
from streamsvc.features.jit import kernel
from streamsvc.features.spec import (
    AT_COUNT,
    AT_FIRST,
    AT_INT_SUM,
    AT_LAST,
    AT_MAX,
    AT_MIN,
    AT_MOMENTS,
    AT_SUM,
    COLUMN,
    FLOATS,
    KIND,
    NULLS,
    Program,
)

__all__ = ["accumulate"]


@kernel
def accumulate(
    pool: I64,
    pg: Program,
    group: int,
    tile: int,
    words: I64,
    valid: Bools,
    i: int,
    time: int,
    partition: int,
    offset: int,
) -> None:
    """Add row i to the tile at word address `tile`; nulls and NaN are skipped."""
    floats = pool.view(np.float64)
    numbers = words.view(np.float64)
    for e in range(pg.first_entry[group], pg.first_entry[group + 1]):
        entry = pg.entries[e]
        c = entry[COLUMN]
        if not valid[c, i]:
            continue
        at_count = tile + entry[AT_COUNT]
        kind = entry[KIND]
        if kind == NULLS:
            pool[at_count] += 1
            continue
        value = words[c, i]
        number = numbers[c, i] if kind == FLOATS else float(value)
        if number != number:
            continue
        count = pool[at_count] + 1
        pool[at_count] = count
        if entry[AT_INT_SUM] >= 0:
            pool[tile + entry[AT_INT_SUM]] += value
        if entry[AT_SUM] >= 0:
            floats[tile + entry[AT_SUM]] += number
        if entry[AT_MOMENTS] >= 0:
            _moments(floats, tile + entry[AT_MOMENTS], count, number)
        if kind == FLOATS:
            _extremes_of_floats(floats, tile, entry, count, number)
        else:
            _extremes_of_ints(pool, tile, entry, count, value)
        if entry[AT_FIRST] >= 0:
            a = tile + entry[AT_FIRST]
            if count == 1 or _before(time, partition, offset, pool, a):
                _put(pool, a, time, partition, offset, value)
        if entry[AT_LAST] >= 0:
            a = tile + entry[AT_LAST]
            if count == 1 or not _before(time, partition, offset, pool, a):
                _put(pool, a, time, partition, offset, value)


@kernel
def _moments(floats: F64, a: int, count: int, number: float) -> None:
    delta = number - floats[a]
    floats[a] += delta / count
    floats[a + 1] += delta * (number - floats[a])


@kernel
def _extremes_of_floats(floats: F64, tile: int, entry: I64, count: int, number: float) -> None:
    a = tile + entry[AT_MIN]
    if entry[AT_MIN] >= 0 and (count == 1 or number < floats[a]):
        floats[a] = number
    a = tile + entry[AT_MAX]
    if entry[AT_MAX] >= 0 and (count == 1 or number > floats[a]):
        floats[a] = number


@kernel
def _extremes_of_ints(pool: I64, tile: int, entry: I64, count: int, value: int) -> None:
    a = tile + entry[AT_MIN]
    if entry[AT_MIN] >= 0 and (count == 1 or value < pool[a]):
        pool[a] = value
    a = tile + entry[AT_MAX]
    if entry[AT_MAX] >= 0 and (count == 1 or value > pool[a]):
        pool[a] = value


@kernel
def _before(time: int, partition: int, offset: int, pool: I64, a: int) -> bool:
    if time != pool[a]:
        return time < pool[a]
    if partition != pool[a + 1]:
        return partition < pool[a + 1]
    return offset < pool[a + 2]


@kernel
def _put(pool: I64, a: int, time: int, partition: int, offset: int, value: int) -> None:
    pool[a] = time
    pool[a + 1] = partition
    pool[a + 2] = offset
    pool[a + 3] = value
