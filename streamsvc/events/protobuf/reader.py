"""Protobuf values of a chunk → columns."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from streamsvc.columns import I64, U8, Bools, BytesColumn
from streamsvc.definitions.plan import EventSchema, ProtobufEncoding
from streamsvc.events.fields import Builder
from streamsvc.events.framing import (
    HEADER_BYTES,
    SchemaRegistry,
    Unusable,
    WriterSchema,
    WriterSchemas,
    schema_ids,
)
from streamsvc.events.jit import kernel
from streamsvc.events.protobuf import interpreter
from streamsvc.events.protobuf.columns import find_message, message_columns
from streamsvc.events.protobuf.interpreter import interpret
from streamsvc.events.protobuf.places import message_places
from streamsvc.events.varints import varint, zigzag
from streamsvc.events.wire import Reason, Reject
from streamsvc.features.kernels.pointers import pointer

__all__ = ["ProtobufReader"]

_SENTENCES: Final = {
    interpreter.TOO_SHORT: "it ends too early",
    interpreter.BAD_TAG: "it has something that is no field",
    interpreter.BAD_UTF8: "its text is not UTF-8",
    interpreter.TOO_DEEP: "its groups are nested too deep",
}
_UNREADABLE: Final = -1
_ELSEWHERE: Final = -2


class ProtobufReader:
    """Reads the values of one source."""

    def __init__(
        self, schema: EventSchema, encoding: ProtobufEncoding, registry: SchemaRegistry | None
    ) -> None:
        descriptor = find_message(encoding.files, encoding.message)
        self._message = encoding.message
        self._framed = encoding.framed
        first: I64 = np.zeros(1, np.int64)
        self._places = WriterSchemas(registry, "PROTOBUF", self._place, first)
        found = message_columns(descriptor)
        tables = found.tables
        assert tables is not None
        self._tables = tables
        time = self._time = schema.timestamp_field
        self._zero_is_missing = -1
        if schema.kafka_time:
            return
        index = [f.name for f in schema.fields].index(time)
        # Zero is what an event time without presence has where nobody set it. The field of a
        # Timestamp is there if the Timestamp is.
        implicit = index in tables.implicit[:, 0].tolist() and time not in found.times
        if implicit and schema.fields[index].type != "string":
            self._zero_is_missing = index

    def read(self, builder: Builder, values: BytesColumn, rows: Bools) -> tuple[U8, list[Reject]]:
        """Fill the columns for `rows`; returns the data that they point into, and the rejects."""
        data = np.ascontiguousarray(values.data).view()
        data.flags.writeable = False
        start = values.start
        rejects: list[Reject] = []
        if self._framed:
            start, rows, rejects = self._unframe(data, values.start, values.end, rows)
        fault, place = interpret(self._tables, builder, data, start, values.end, rows)
        bad = np.flatnonzero(fault)
        rejects += [self._reject(row, int(fault[row]), int(place[row])) for row in bad.tolist()]
        builder.valid[:, bad] = False
        builder.words[:, bad] = 0
        if self._zero_is_missing >= 0:
            time = self._zero_is_missing
            builder.valid[time] &= builder.words[builder.slots[time]] != 0
        return values.data, rejects

    def _unframe(
        self, data: U8, start: I64, end: I64, rows: Bools
    ) -> tuple[I64, Bools, list[Reject]]:
        """Where the messages themselves start, and which rows have one of our type."""
        ids, rejects = schema_ids(data, start, end, rows)
        begin = start + HEADER_BYTES
        for schema_id in np.unique(ids[ids >= 0]).tolist():
            mine = ids == schema_id
            wanted = self._places.of(schema_id)
            if isinstance(wanted, Unusable):
                rejects += wanted.rejects(mine)
                ids[mine] = -1
                continue
            _skip_place(data, begin, end, mine, wanted)
            rejects += [
                Reject(row, "bad_header", "The place of the message type cannot be read.")
                for row in np.flatnonzero(mine & (begin == _UNREADABLE)).tolist()
            ]
            rejects += [
                Reject(
                    row,
                    "schema_mismatch",
                    f"The message is of another type of schema {schema_id} than {self._message}.",
                )
                for row in np.flatnonzero(mine & (begin == _ELSEWHERE)).tolist()
            ]
        return begin, (ids >= 0) & (begin >= 0), rejects

    def _place(self, written: WriterSchema) -> I64:
        """Where our message type stands in a schema. Raises ValueError if it does not."""
        place = message_places(written.text).get(self._message)
        if place is None:
            raise ValueError(f"it has no message {self._message}.")
        return np.array(place, np.int64)

    def _reject(self, row: int, fault: int, place: int) -> Reject:
        if fault == interpreter.MISSING:
            name = self._tables.required[place].name
            reason: Reason = "bad_event_time" if name == self._time else "wrong_type"
            return Reject(row, reason, f"Field {name!r} is required, and missing.")
        if fault == interpreter.TOO_LARGE:
            return Reject(
                row, "wrong_type", f"Field number {place} has a value beyond what its column takes."
            )
        return Reject(
            row,
            "bad_protobuf",
            f"The value is no {self._message}: {_SENTENCES[fault]}, at field number {place}.",
        )


@kernel
def _skip_place(data: U8, start: I64, end: I64, rows: Bools, wanted: I64) -> None:
    """Move `start` of `rows` behind the place of their message type; negative: why it cannot be.

    The place is a list of indices: its length, then each, all as zigzag numbers. The list of a lone
    0, the first message of a file, is written as a length of 0.
    """
    a: Any = pointer(data)
    for i in range(len(rows)):
        if not rows[i]:
            continue
        word, p = varint(a, start[i], end[i], 127)
        many = zigzag(word)
        if p < 0 or many < 0 or many > end[i] - p:
            start[i] = _UNREADABLE
            continue
        if many == 0:
            start[i] = p if len(wanted) == 1 and wanted[0] == 0 else _ELSEWHERE
            continue
        same = many == len(wanted)
        for k in range(many):
            word, p = varint(a, p, end[i], 127)
            if p < 0:
                break
            same = same and zigzag(word) == wanted[k]
        start[i] = _UNREADABLE if p < 0 else (p if same else _ELSEWHERE)
