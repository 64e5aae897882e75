"""Rows as records of a topic: what a view's entity is from now on, for whoever follows it in Kafka.

>>> from streamsvc.columns import strings
>>> from streamsvc.definitions.plan import JoinKey
>>> from streamsvc.entity_keys import encode_entity_keys
>>> import numpy as np
>>> from streamsvc.columns import numeric
>>> layout = RowLayout({"paid": "Float64"})
>>> rows = layout.pack({"paid": numeric([12.5])}, 1, 7, np.array([5]), np.array([60]))
>>> keys = encode_entity_keys([strings(["c1"])])
>>> update_records("cards", [JoinKey("card", "string")], layout, keys, rows)[1][0].decode()
'{"view":"cards","entity":{"card":"c1"},"features":{"paid":12.5},"as_of_ms":5,"valid_until_ms":60,\
"incarnation":1,"applied":7}'
"""

from __future__ import annotations

from collections.abc import Sequence

from streamsvc.columns import BytesColumn
from streamsvc.definitions.plan import JoinKey
from streamsvc.entity_keys import decode_entity_keys
from streamsvc.record_text import constant, entity_texts, values
from streamsvc.store.row import NEVER_MS, PackedRows, RowLayout

__all__ = ["update_records"]


def update_records(
    view: str,
    join_keys: Sequence[JoinKey],
    layout: RowLayout,
    keys: BytesColumn,
    rows: PackedRows,
) -> tuple[list[bytes], list[bytes]]:
    """Keys and values of a record for each row, as docs/updates.md has them.

    `layout` has packed the rows; the values are those that its readers will find, in its types.
    """
    found = layout.read(rows)
    columns = decode_entity_keys(keys, [key.type for key in join_keys])
    entity = dict(zip((key.name for key in join_keys), columns, strict=True))
    form = b"".join(
        (
            b'{"view":',
            constant(view),
            b',"entity":{',
            b",".join(constant(name) + b":%b" for name in entity),
            b'},"features":{',
            b",".join(constant(name) + b":%b" for name in layout.features),
            b'},"as_of_ms":%d,"valid_until_ms":%b,"incarnation":%d,"applied":%d}',
        )
    )
    ends = found.valid_until.tolist()
    filled = zip(
        *(values(column) for column in columns),
        *(values(found.values[name]) for name in layout.features),
        found.as_of.tolist(),
        [b"null" if end == NEVER_MS else b"%d" % end for end in ends],
        found.incarnation.tolist(),
        found.offset.tolist(),
        strict=True,
    )
    return entity_texts(entity), [form % row for row in filled]
