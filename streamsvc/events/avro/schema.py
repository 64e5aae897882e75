"""Avro schema text → types (Avro specification 1.12, "Schema Declaration").

Named types may be used before the end of their own declaration, so a type can contain itself.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["MISSING", "AvroField", "AvroType", "parse_avro"]

_PRIMITIVE: Final = frozenset(
    {"null", "boolean", "int", "long", "float", "double", "bytes", "string"}
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_MAX_FIXED: Final = 1 << 30
MISSING: Final = object()
"""The default of a field that has none."""


@dataclass(slots=True, eq=False)
class AvroType:
    """A type. Which attributes mean something follows from `kind`."""

    kind: str
    """A primitive's name, or fixed, enum, array, map, union, record."""
    name: str = ""
    """Full name of a fixed, enum or record."""
    logical: str | None = None
    size: int = 0
    """Bytes of a fixed."""
    symbols: tuple[str, ...] = ()
    default_symbol: str | None = None
    """What an enum's reader takes for a symbol that it does not know."""
    items: AvroType | None = None
    """Of an array; of a map, whose keys are strings, the values."""
    branches: tuple[AvroType, ...] = ()
    fields: list[AvroField] = field(default_factory=list)

    def __str__(self) -> str:
        if self.kind == "union":
            return f"a union of {', '.join(b.kind for b in self.branches)}"
        return f"{'an' if self.kind[0] in 'aei' else 'a'} {self.kind}"


@dataclass(frozen=True, slots=True, eq=False)
class AvroField:
    """A field of a record."""

    name: str
    type: AvroType
    aliases: tuple[str, ...]
    """Names that a writer may have had for it."""
    default: Any
    """JSON value for records of a writer that had no such field, or MISSING."""


def parse_avro(text: str, references: Iterable[str] = ()) -> AvroType:
    """The type that a schema declares; `references` are schemas whose named types it uses.

    Raises ValueError that says where the schema is wrong.
    """
    names: dict[str, AvroType] = {}
    try:
        for each in references:
            _parse(json.loads(each), "", names, "")
        return _parse(json.loads(text), "", names, "")
    except json.JSONDecodeError as error:
        raise ValueError(f"the Avro schema is not valid JSON: {error}") from error
    except RecursionError as error:
        raise ValueError("the Avro schema is nested too deep") from error


def _parse(  # noqa: PLR0911 - one for each form of a type
    node: Any, namespace: str, names: dict[str, AvroType], where: str
) -> AvroType:
    if isinstance(node, str):
        return _named(node, namespace, names, where)
    if isinstance(node, list):
        branches = tuple(_parse(each, namespace, names, where) for each in node)
        if not branches or any(branch.kind == "union" for branch in branches):
            raise _wrong(where, "is a union that is empty or directly holds a union")
        return AvroType("union", branches=branches)
    if not isinstance(node, Mapping) or "type" not in node:
        raise _wrong(where, "has no type")
    kind, logical = node["type"], node.get("logicalType")
    if not isinstance(kind, str):
        return _parse(kind, namespace, names, where)
    if kind in _PRIMITIVE:
        return AvroType(kind, logical=logical if isinstance(logical, str) else None)
    if kind in ("array", "map"):
        key = "items" if kind == "array" else "values"
        if key not in node:
            raise _wrong(where, f"is {kind} without {key!r}")
        return AvroType(kind, items=_parse(node[key], namespace, names, where))
    if kind in ("record", "error", "enum", "fixed"):
        return _declared(node, kind, namespace, names, where)
    return _named(kind, namespace, names, where)


def _named(name: str, namespace: str, names: dict[str, AvroType], where: str) -> AvroType:
    if name in _PRIMITIVE:
        return AvroType(name)
    full = name if "." in name or not namespace else f"{namespace}.{name}"
    found = names.get(full) or names.get(name)
    if found is None:
        raise _wrong(where, f"has type {name!r}, which is not declared")
    return found


def _declared(
    node: Mapping[str, Any], kind: str, namespace: str, names: dict[str, AvroType], where: str
) -> AvroType:
    name = node.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise _wrong(where, f"is {kind} with the name {name!r}, which is not a name")
    if "." not in name:
        namespace = node.get("namespace", namespace) or ""
        name = f"{namespace}.{name}" if namespace else name
    namespace = name.rpartition(".")[0]
    if name in names:
        raise _wrong(where, f"declares {name!r} again")
    made = AvroType("record" if kind == "error" else kind, name=name)
    names[name] = made
    if kind == "fixed":
        size = node.get("size")
        if not isinstance(size, int) or not 0 <= size <= _MAX_FIXED:
            raise _wrong(where, f"is fixed with the size {size!r}")
        made.size = size
    elif kind == "enum":
        symbols = node.get("symbols")
        if not isinstance(symbols, list) or not all(isinstance(s, str) for s in symbols):
            raise _wrong(where, "is enum without a list of symbols")
        made.symbols, made.default_symbol = tuple(symbols), node.get("default")
    else:
        fields = node.get("fields")
        if not isinstance(fields, list):
            raise _wrong(where, "is record without a list of fields")
        for each in fields:
            made.fields.append(_field(each, namespace, names, where))
        found = [f.name for f in made.fields]
        if len(set(found)) < len(found):
            raise _wrong(where, "is record with two fields of one name")
    return made


def _field(node: Any, namespace: str, names: dict[str, AvroType], where: str) -> AvroField:
    if not isinstance(node, Mapping) or not isinstance(node.get("name"), str):
        raise _wrong(where, "has a field without a name")
    inside = f"{where}.{node['name']}" if where else node["name"]
    if "type" not in node:
        raise _wrong(inside, "has no type")
    type_ = _parse(node["type"], namespace, names, inside)
    aliases = node.get("aliases", [])
    if not isinstance(aliases, list) or not all(isinstance(a, str) for a in aliases):
        raise _wrong(inside, "has aliases that are no list of names")
    return AvroField(node["name"], type_, tuple(aliases), node.get("default", MISSING))


def _wrong(where: str, what: str) -> ValueError:
    return ValueError(f"{f'Field {where!r}' if where else 'The Avro schema'} {what}.")
