"""What decoding one event costs, in JSON, Avro and Protobuf: CPU time of one core.

    python benchmarks/decoding.py [--chunk 5000]

The same payments of eight fields in each format. Before a figure is printed, the columns of all
formats are compared with the values that were written.
"""

from __future__ import annotations

import argparse
import json
import struct
import time
from typing import Any

import numpy as np
import results
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from machine import machine

from streamsvc.columns import strings
from streamsvc.definitions.plan import EventSchema, Source
from streamsvc.events.decode import Decoder
from streamsvc.events.framing import WriterSchema
from streamsvc.events.schema import parse_avro_schema, parse_protobuf_schema, parse_schema

START_MS = 1_700_000_000_000
KINDS = {
    "payment_id": "string", "card_id": "string", "shop_id": "long", "amount": "double",
    "items": "int", "country": "string", "online": "boolean", "paid_at": "long",
}  # fmt: skip
NULLABLE = ("amount", "country")
DDL = {
    "string": "STRING",
    "long": "BIGINT",
    "int": "BIGINT",
    "double": "DOUBLE",
    "boolean": "BOOLEAN",
}
PROTO = {"string": 9, "long": 3, "int": 5, "double": 1, "boolean": 8}


class OneSchema:
    """A registry that has one schema."""

    def __init__(self, kind: str, text: str) -> None:
        self.written = WriterSchema(kind, text)

    def schema(self, schema_id: int) -> WriterSchema:
        assert schema_id == 1
        return self.written


def events(n: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(1)
    return [
        {
            "payment_id": f"p{i}",
            "card_id": f"c{int(rng.integers(100_000))}",
            "shop_id": int(rng.integers(400)),
            "amount": None if i % 50 == 7 else round(float(rng.gamma(2.0, 30.0)), 2),
            "items": int(rng.integers(6)),
            "country": ("NL", "DE", "FR", None)[i % 4],
            "online": bool(rng.integers(2)),
            "paid_at": START_MS + i,
        }
        for i in range(n)
    ]


def avro_schema() -> str:
    fields = [
        {"name": name, "type": ["null", kind] if name in NULLABLE else kind}
        for name, kind in KINDS.items()
    ]
    return json.dumps({"type": "record", "name": "Payment", "fields": fields})


def varint(word: int) -> bytes:
    out = bytearray()
    while word > 127:
        out.append(word & 127 | 128)
        word >>= 7
    return bytes([*out, word])


def avro(event: dict[str, Any]) -> bytes:
    out = b""
    for name, kind in KINDS.items():
        value = event[name]
        if name in NULLABLE:
            out += b"\0" if value is None else b"\2"
        if value is None:
            continue
        if kind == "string":
            raw = value.encode()
            out += varint(2 * len(raw)) + raw
        elif kind == "double":
            out += struct.pack("<d", value)
        else:
            out += bytes([value]) if kind == "boolean" else varint(2 * value)
    return out


def message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="b.proto", package="b", syntax="proto3")
    message = file.message_type.add(name="Payment")
    for number, (name, kind) in enumerate(KINDS.items(), 1):
        field = message.field.add(name=name, number=number, type=PROTO[kind], label=1)
        if name in NULLABLE:
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{name}")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("b.Payment"))


def formats(made: list[dict[str, Any]]) -> dict[str, tuple[EventSchema, list[bytes], Any]]:
    ddl = ", ".join(f"{name} {DDL[kind]}" for name, kind in KINDS.items())
    kind = message_class()
    text = "package b; message Payment {}"
    avros = [avro(e) for e in made]
    protos = [
        kind(**{k: v for k, v in e.items() if v is not None}).SerializeToString() for e in made
    ]

    def schemas(*, framed: bool) -> tuple[EventSchema, EventSchema]:
        return (
            parse_avro_schema(avro_schema(), "paid_at", "ms", framed=framed),
            parse_protobuf_schema(kind.DESCRIPTOR, "paid_at", "ms", framed=framed),
        )

    head = b"\0\0\0\0\1"
    return {
        "JSON": (
            parse_schema(ddl, "paid_at", "ms"),
            [json.dumps(e, separators=(",", ":")).encode() for e in made],
            None,
        ),
        "Avro": (schemas(framed=False)[0], avros, None),
        "Avro with header": (
            schemas(framed=True)[0],
            [head + a for a in avros],
            OneSchema("AVRO", avro_schema()),
        ),
        "Protobuf": (schemas(framed=False)[1], protos, None),
        "Protobuf with header": (
            schemas(framed=True)[1],
            [head + b"\0" + p for p in protos],
            OneSchema("PROTOBUF", text),
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunk", type=int, default=5_000, help="records in a chunk")
    n = parser.parse_args().chunk
    made = events(n)
    print(machine("numba", "numpy"))
    print(f"chunks of {n} records of 8 fields; CPU time, best of 200")
    told = []
    for name, (schema, rows, registry) in formats(made).items():
        source = Source("s", "t", schema, 0, 10**15, None, None)
        decoder = Decoder(source, max_record_bytes=1 << 20, registry=registry)
        values, stamps = strings(rows), np.full(n, -1, np.int64)
        found = decoder.decode(values, stamps)
        assert found.ok.all(), found.rejects[:3]
        for field in KINDS:
            assert found.columns[field].to_pylist() == [e[field] for e in made], (name, field)
        best = min(timed(decoder, values, stamps) for _ in range(200))
        size = sum(map(len, rows)) / n
        print(f"{name:22}{best / n * 1e9:6.0f} ns a record   {size:5.0f} bytes")
        told.append({"format": name, "ns a record": best / n * 1e9, "bytes a record": size})
    results.write("decoding", told, "numba", "numpy")


def timed(decoder: Decoder, values: Any, stamps: Any) -> float:
    begin = time.process_time()
    decoder.decode(values, stamps)
    return time.process_time() - begin


if __name__ == "__main__":
    main()
