"""Rows as records of a topic: what a view's entity is from now on, for whoever follows it in Kafka.

>>> from streamsvc.columns import strings
>>> from streamsvc.definitions.plan import JoinKey
>>> from streamsvc.entity_keys import encode_entity_keys
>>> import numpy as np
>>> from streamsvc.columns import numeric
>>> layout = RowLayout({"paid": "Float64"})
>>> rows = layout.pack({"paid": numeric([12.5])}, 1, 7, np.array([5]), np.array([60]))
>>> keys = encode_entity_keys([strings(["c1"])])
>>> update_records("cards", [JoinKey("card", "string")], layout, keys, rows)[1].row(0).decode()
'{"view":"cards","entity":{"card":"c1"},"features":{"paid":12.5},"as_of_ms":5,"valid_until_ms":60,\
"incarnation":1,"applied":7}'
"""

from __future__ import annotations

from collections.abc import Sequence

from streamsvc.columns import I64, BytesColumn, NumericColumn
from streamsvc.definitions.plan import JoinKey
from streamsvc.entity_keys import decode_entity_keys
from streamsvc.record_text import Part, constant, entity_texts, filled, members
from streamsvc.store.row import NEVER_MS, PackedRows, RowLayout

__all__ = ["update_records"]


def update_records(
    view: str,
    join_keys: Sequence[JoinKey],
    layout: RowLayout,
    keys: BytesColumn,
    rows: PackedRows,
    event: tuple[I64, I64] | None = None,
) -> tuple[BytesColumn, BytesColumn]:
    """Keys and values of a record for each row, as docs/updates.md has them.

    `layout` has packed the rows; the values are those that its readers will find, in its types.
    Rows of single events have their partitions and offsets, too.
    """
    found = layout.read(rows)
    columns = decode_entity_keys(keys, [key.type for key in join_keys])
    entity = dict(zip((key.name for key in join_keys), columns, strict=True))
    source: tuple[Part, ...] = ()
    if event is not None:
        source = b',"source":{"partition":', event[0], b',"offset":', event[1], b"}"
    return entity_texts(entity), filled(
        b'{"view":' + constant(view) + b',"entity":{',
        *members(entity),
        b'},"features":{',
        *members({name: found.values[name] for name in layout.features}),
        b'},"as_of_ms":',
        found.as_of,
        b',"valid_until_ms":',
        NumericColumn(found.valid_until, found.valid_until != NEVER_MS),
        b',"incarnation":',
        found.incarnation,
        b',"applied":',
        found.offset,
        *source,
        b"}",
    )
