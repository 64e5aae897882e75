"""Avro values of a chunk → columns."""

from __future__ import annotations

from typing import Final

import numpy as np

from streamsvc.columns import I64, U8, Bools, BytesColumn
from streamsvc.definitions.plan import AvroEncoding, EventSchema
from streamsvc.events.avro import interpreter
from streamsvc.events.avro.interpreter import interpret
from streamsvc.events.avro.program import Program
from streamsvc.events.avro.resolution import compile_program
from streamsvc.events.avro.schema import parse_avro
from streamsvc.events.fields import Builder
from streamsvc.events.framing import (
    HEADER_BYTES,
    SchemaRegistry,
    Unusable,
    WriterSchema,
    WriterSchemas,
    schema_ids,
)
from streamsvc.events.wire import Reject

__all__ = ["AvroReader"]

_SENTENCES: Final = {
    interpreter.TOO_SHORT: "ends within {}",
    interpreter.NOT_THE_END: "goes on behind the record's last field",
    interpreter.BAD_LENGTH: "has a length or a number in {} that cannot be",
    interpreter.BAD_BRANCH: "has a value in {} that its type does not have",
    interpreter.BAD_UTF8: "has text in {} that is not UTF-8",
    interpreter.TOO_DEEP: "is nested too deep in {}",
}


class AvroReader:
    """Reads the values of one source; programs are compiled when their schema is first met."""

    def __init__(
        self, schema: EventSchema, encoding: AvroEncoding, registry: SchemaRegistry | None
    ) -> None:
        self._fields = schema.in_values
        self._slots = Builder.slots_of(self._fields)
        self._declared = parse_avro(encoding.schema)
        self._framed = encoding.framed
        self._plain = compile_program(self._declared, self._declared, self._fields, self._slots)
        self._writers = WriterSchemas(registry, "AVRO", self._compiled, self._plain)

    def read(self, builder: Builder, values: BytesColumn, rows: Bools) -> tuple[U8, list[Reject]]:
        """Fill the columns for `rows`; returns the data that they point into, and the rejects."""
        data = np.ascontiguousarray(values.data).view()
        data.flags.writeable = False
        if not self._framed:
            return self._run(self._plain, builder, data, values.start, values.end, rows, data)
        ids, rejects = schema_ids(data, values.start, values.end, rows)
        grown = data
        start = values.start + HEADER_BYTES
        for schema_id in np.unique(ids[ids >= 0]).tolist():
            mine = ids == schema_id
            program = self._writers.of(schema_id)
            if isinstance(program, Unusable):
                rejects += program.rejects(mine)
                continue
            grown, found = self._run(program, builder, data, start, values.end, mine, grown)
            rejects += found
        return grown, rejects

    def _compiled(self, written: WriterSchema) -> Program:
        """How to read a writer's records. Raises ValueError if the schemas do not match."""
        writer = parse_avro(written.text, written.references)
        return compile_program(writer, self._declared, self._fields, self._slots)

    def _run(
        self,
        program: Program,
        builder: Builder,
        data: U8,
        start: I64,
        end: I64,
        rows: Bools,
        grown: U8,
    ) -> tuple[U8, list[Reject]]:
        """Read `rows`; text of the program is appended to `grown`, which begins with `data`."""
        fault, place = interpret(program, builder, data, start, end, rows, len(grown))
        if program.uses_text:
            grown = np.concatenate((grown, program.text))
        bad = np.flatnonzero(fault)
        if not len(bad):
            return grown, []
        builder.valid[:, bad] = False
        builder.words[:, bad] = 0
        return grown, [
            _reject(program, row, int(fault[row]), int(place[row])) for row in bad.tolist()
        ]


def _reject(program: Program, row: int, fault: int, place: int) -> Reject:
    if fault == interpreter.MISMATCHED:
        return Reject(row, "schema_mismatch", program.whys[program.steps[place, 1]])
    label = program.labels[place]
    what = _SENTENCES[fault].format(f"field {label!r}" if label else "the record")
    return Reject(row, "bad_avro", f"The value is not Avro of its schema: it {what}.")
