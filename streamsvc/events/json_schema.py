"""JSON Schema → event fields.

Read are objects with `properties` (nested ones become dotted paths), `required`, a `type` that is
one name or one name and "null", `anyOf`/`oneOf` of one schema and null, and `$ref` into the same
document, which is what pydantic and most generators write. A field is nullable unless it and every
object around it is required and its type excludes null.

>>> schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
>>> [(f.name, f.type, f.nullable) for f in parse_json_schema(schema)]
[('a', 'int64', False)]
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from streamsvc.definitions.plan import EventField, FieldType
from streamsvc.errors import DefinitionError

__all__ = ["parse_json_schema"]

_TYPES: Final[dict[str, FieldType]] = {
    "integer": "int64",
    "number": "float64",
    "boolean": "bool",
    "string": "string",
}


def parse_json_schema(schema: Mapping[str, Any]) -> list[EventField]:
    """The leaf fields of a JSON Schema, in order. Raises DefinitionError with every mistake."""
    mistakes: list[str] = []
    fields = list(_object(schema, schema, (), True, (), mistakes))
    if mistakes:
        raise DefinitionError(mistakes)
    return fields


def _object(
    root: Mapping[str, Any],
    node: Mapping[str, Any],
    path: tuple[str, ...],
    required: bool,
    refs: tuple[str, ...],
    mistakes: list[str],
) -> Iterator[EventField]:
    node, null, refs = _resolve(root, node, path, refs, mistakes)
    properties = node.get("properties")
    if not isinstance(properties, Mapping) or not properties:
        mistakes.append(f"{_what(path)} must be an object with `properties`.")
        return
    needed = set(node.get("required", ())) if required and not null else set()
    for name, child in properties.items():
        yield from _field(root, child, (*path, name), name in needed, refs, mistakes)


def _field(
    root: Mapping[str, Any],
    node: Any,
    path: tuple[str, ...],
    required: bool,
    refs: tuple[str, ...],
    mistakes: list[str],
) -> Iterator[EventField]:
    if not isinstance(node, Mapping):
        mistakes.append(f"{_what(path)} has no schema; give it a `type`.")
        return
    resolved, null, _ = _resolve(root, node, path, refs, mistakes)
    names = [resolved["type"]] if isinstance(resolved.get("type"), str) else resolved.get("type")
    kinds = [name for name in names or () if name != "null"]
    if "properties" in resolved or kinds == ["object"]:
        yield from _object(root, node, path, required, refs, mistakes)
    elif len(kinds) != 1:
        mistakes.append(
            f"{_what(path)} must have exactly one type beside null; `type` is {names!r}."
        )
    elif kinds[0] == "array":
        mistakes.append(
            f"{_what(path)} is an array: arrays are not read; aggregate them before they are"
            " produced, or leave the field out."
        )
    elif kinds[0] not in _TYPES:
        mistakes.append(f"{_what(path)} has type {kinds[0]!r}, none of {sorted(_TYPES)}, object.")
    else:
        yield EventField(".".join(path), path, _TYPES[kinds[0]], null or not required)


def _resolve(
    root: Mapping[str, Any],
    node: Mapping[str, Any],
    path: tuple[str, ...],
    refs: tuple[str, ...],
    mistakes: list[str],
) -> tuple[Mapping[str, Any], bool, tuple[str, ...]]:
    """Follow `$ref` and a choice with null: the schema meant, whether null is allowed, the refs."""
    names = node.get("type")
    null = isinstance(names, list) and "null" in names
    while True:
        choices = node.get("anyOf") or node.get("oneOf")
        if choices:
            others = [c for c in choices if c.get("type") != "null"]
            null = null or len(others) < len(choices)
            if len(others) != 1:
                mistakes.append(f"{_what(path)} is a choice of several types; give it one.")
                return {"type": "string"}, null, refs
            node = others[0]
        elif "$ref" in node:
            ref = str(node["$ref"])
            target: Any = root
            for part in ref.removeprefix("#").strip("/").split("/"):
                target = target.get(part) if isinstance(target, Mapping) else None
            if not ref.startswith("#/") or not isinstance(target, Mapping):
                mistakes.append(f"{_what(path)} refers to {ref!r}, which is not in this schema.")
                return {"type": "string"}, null, refs
            if ref in refs:
                mistakes.append(f"{_what(path)} contains itself through {ref!r}.")
                return {"type": "string"}, null, refs
            refs = (*refs, ref)
            node = target
        else:
            return node, null, refs


def _what(path: tuple[str, ...]) -> str:
    return f"Field {'.'.join(path)!r}" if path else "The schema"
