"""Which messages a Protobuf schema declares, and where: what a Schema Registry header points at.

The place of a message is its index among the messages of the file, or of the message around it,
from the outside in. Maps make messages of their own in descriptors; those do not count.

>>> message_places('package shop; message A {} message B { message C {} }')
{'shop.A': (0,), 'shop.B': (1,), 'shop.B.C': (1, 0)}
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any, Final

__all__ = ["message_places"]

_TOKENS: Final = re.compile(
    r"""//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[\w.]+|[{};=]""", re.DOTALL
)

Place = tuple[int, ...]


def message_places(schema: str) -> dict[str, Place]:
    """Full name -> place of every message; `schema` is the text of a .proto file, or a serialised
    FileDescriptorProto in base64 (which some clients register instead). {} if it is neither."""
    return _of_descriptor(schema) or _of_text(schema)


def _of_text(text: str) -> dict[str, Place]:
    found: dict[str, Place] = {}
    words = [w for w in _TOKENS.findall(text) if not w.startswith(("//", "/*"))]
    package = ""
    # Of every open brace: the message that it belongs to (None: something else), messages within.
    around: list[tuple[str, Place] | None] = []
    counts: dict[Place, int] = {}
    statement: list[str] = []
    for word in words:
        if word == ";":
            if statement[:1] == ["package"] and len(statement) == 2:
                package = statement[1]
            statement = []
        elif word == "{":
            opened: tuple[str, Place] | None = None
            outer = around[-1] if around else (package, ())
            name = _message_name(statement)
            if name is not None and outer is not None:
                full, place = outer
                index = counts.get(place, 0)
                counts[place] = index + 1
                opened = (f"{full}.{name}" if full else name, (*place, index))
                found[opened[0]] = opened[1]
            elif outer is not None and statement[:1] in (["oneof"], ["extend"]):
                # A group within declares its message in the message around.
                opened = outer
            around.append(opened)
            statement = []
        elif word == "}":
            if around:
                around.pop()
            statement = []
        else:
            statement.append(word)
    return found


def _message_name(statement: list[str]) -> str | None:
    if len(statement) == 2 and statement[0] == "message":
        return statement[1]
    # [optional] group Name = 3 {
    if "group" in statement[:2] and "=" in statement:
        return statement[statement.index("=") - 1]
    return None


def _of_descriptor(text: str) -> dict[str, Place]:
    from google.protobuf.descriptor_pb2 import FileDescriptorProto
    from google.protobuf.message import DecodeError

    try:
        file = FileDescriptorProto.FromString(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, DecodeError):
        return {}
    found: dict[str, Place] = {}

    def add(messages: Iterable[Any], prefix: str, place: Place) -> None:
        plain = [each for each in messages if not each.options.map_entry]
        for index, each in enumerate(plain):
            name = f"{prefix}.{each.name}" if prefix else each.name
            found[name] = (*place, index)
            add(each.nested_type, name, (*place, index))

    add(file.message_type, file.package, ())
    return found
