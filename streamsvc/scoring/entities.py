"""From request columns to the entities that each view is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamsvc.columns import I64, BytesColumn, Columns
from streamsvc.entity_keys import encode_entity_keys, key_text, murmur2
from streamsvc.scoring.distinct import distinct
from streamsvc.scoring.inputs import ViewInput

__all__ = ["Entities", "entities_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Entities:
    """The m distinct entities of a view that n requests name."""

    keys: BytesColumn
    """Entity key bytes, m rows, none null."""
    index: I64
    """Shape (n,): which entity a request names; -1 where a part of the key is null."""
    state_partition: I64
    """Shape (m,): which state partition holds the entity; all 0 for a view without state."""

    @property
    def state_partition_of_requests(self) -> I64:
        """Shape (n,): the state partition of the entity that a request names, -1 for none."""
        if not len(self.keys):
            return np.full(len(self.index), -1, np.int64)
        return np.where(self.index >= 0, self.state_partition[self.index], -1)


def entities_of(view: ViewInput, columns: Columns, partitions: int) -> Entities:
    """The entities of one view; `columns` are the requests' fields, n rows each.

    `partitions` is how many state partitions the view has: the event topic's partitions where the
    source declares its key, else the key groups.
    """
    parts = [columns[field] for field in view.key_fields]
    keys, index = distinct(encode_entity_keys(parts))
    if view.topic is None:
        return Entities(keys, index, np.zeros(len(keys), np.int64))
    if not view.declared_key:
        return Entities(keys, index, murmur2(keys) % partitions)
    first = np.zeros(len(keys), np.int64)
    named = np.flatnonzero(index >= 0)
    # Any request of an entity will do; assigned backwards, the first one stays.
    first[index[named[::-1]]] = named[::-1]
    return Entities(keys, index, murmur2(key_text(parts[0]).take(first)) % partitions)
