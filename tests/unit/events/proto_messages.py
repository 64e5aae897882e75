"""Protobuf message types and messages: strategies. Google's own runtime is the oracle."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2
from hypothesis import strategies as st

FIELD = descriptor_pb2.FieldDescriptorProto
SCALARS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13, 15, 16, 17, 18]
I32 = st.one_of(st.integers(-(2**31), 2**31 - 1), st.integers(-2, 2))
I64 = st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(-2, 2))
U32 = st.integers(0, 2**32 - 1)
U63 = st.integers(0, 2**63 - 1)
VALUES: dict[int, st.SearchStrategy[Any]] = {
    1: st.floats(allow_nan=False),
    2: st.floats(allow_nan=False, width=32),
    3: I64, 4: U63, 5: I32, 6: U63, 7: U32, 8: st.booleans(), 9: st.text(max_size=10),
    12: st.binary(max_size=4), 13: U32, 14: st.sampled_from([0, 1, -4]), 15: I32, 16: I64,
    17: I32, 18: I64,
}  # fmt: skip


@st.composite
def files(draw: st.DrawFn, syntax: str = "proto3", repeated: bool = True) -> Any:
    """A file whose message p.M has an int64 `at` (number 100) and any other fields."""
    file = descriptor_pb2.FileDescriptorProto(name="p.proto", package="p")
    file.dependency.append("google/protobuf/timestamp.proto")
    if syntax == "proto3":
        file.syntax = syntax
    enum = file.enum_type.add(name="E")
    for name, number in (("ZERO", 0), ("ONE", 1), ("LESS", -4)):
        enum.value.add(name=name, number=number)
    for name, within in (("M", ["N", "O"]), ("N", ["O", "M"]), ("O", [])):
        message = file.message_type.add(name=name)
        numbers = draw(st.lists(st.sampled_from([1, 2, 5, 15, 16, 77, 2**29 - 1]), unique=True))
        oneof = draw(st.booleans())
        if oneof:
            message.oneof_decl.add(name="choice")
        in_oneof = 0
        for number in numbers:
            field = message.field.add(name=f"f{number}", number=number, label=1)
            field.type = draw(st.sampled_from([*SCALARS, 14, 14, 9, 9, 11, 11]))
            if field.type == 14:
                field.type_name = ".p.E"
            elif field.type == 11:
                names = [f".p.{n}" for n in within]
                field.type_name = draw(st.sampled_from([*names, ".google.protobuf.Timestamp"]))
            match draw(st.integers(0, 4)):
                case 0 if repeated:
                    field.label = 3
                case 1 if oneof:
                    field.oneof_index = 0
                    in_oneof += 1
                case 2 if syntax == "proto3" and field.type != 11:
                    field.proto3_optional = True
        if oneof and not in_oneof:
            del message.oneof_decl[:]
        for field in message.field:
            if field.proto3_optional:
                field.oneof_index = len(message.oneof_decl)
                message.oneof_decl.add(name=f"_{field.name}")
    file.message_type[0].field.add(name="at", number=100, type=3, label=1)
    return file


def message_class(file: Any, name: str = "p.M") -> Any:
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(timestamp_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


@st.composite
def messages(draw: st.DrawFn, kind: Any, depth: int = 0) -> Any:
    """A message of a class, some of its fields set."""
    made = kind()
    for field in kind.DESCRIPTOR.fields:
        if field.name == "at" or draw(st.integers(0, 3)) == 0:
            continue
        if field.type == 11:
            if depth < 3:
                inner = message_factory.GetMessageClass(field.message_type)
                if field.is_repeated:
                    getattr(made, field.name).append(draw(messages(inner, depth + 1)))
                else:
                    getattr(made, field.name).CopyFrom(draw(messages(inner, depth + 1)))
        elif field.is_repeated:
            getattr(made, field.name).extend(draw(st.lists(VALUES[field.type], max_size=3)))
        elif field.containing_type.full_name == "google.protobuf.Timestamp":
            bound = 253_402_300_799 if field.name == "seconds" else 999_999_999
            setattr(made, field.name, draw(st.integers(0, bound)))
        else:
            setattr(made, field.name, draw(VALUES[field.type]))
    return made


def flat(descriptor: Any, message: Any, path: str = "", around: tuple[str, ...] = ()) -> Any:
    """Dotted path -> value of every field that is a column, by the documented rules."""
    found: dict[str, Any] = {}
    around = (*around, descriptor.full_name)
    for field in descriptor.fields:
        name = path + field.name
        if field.is_repeated or field.type in (10, 12):
            continue
        there = message is not None and (not field.has_presence or message.HasField(field.name))
        value = getattr(message, field.name) if there else None
        if field.type != 11:
            found[name] = value
        elif field.message_type.full_name == "google.protobuf.Timestamp":
            micros = None if value is None else value.seconds * 10**6 + value.nanos // 1000
            found[name] = micros
        elif field.message_type.full_name not in around:
            found.update(flat(field.message_type, value, name + ".", around))
    return found
