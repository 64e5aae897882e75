"""Spark DDL text → event fields.

The text is what `DataFrame.schema.toDDL()` prints and what Feast's docstring shows:

    user_id BIGINT NOT NULL, amount DECIMAL(10, 2) COMMENT 'in EUR', card STRUCT<id: STRING, n: INT>

Type names are case-insensitive, field names are not. Every integer type becomes int64 and every
floating or decimal type float64; Spark writes dates and timestamps into JSON as text, so they are
strings here.

>>> [(f.name, f.type, f.nullable) for f in parse_ddl("a bigint NOT NULL, card struct<id: string>")]
[('a', 'int64', False), ('card.id', 'string', True)]
"""

from __future__ import annotations

import re
from typing import Final

from streamsvc.definitions.plan import EventField, FieldType
from streamsvc.errors import DefinitionError

__all__ = ["TIMESTAMP_TYPES", "parse_ddl", "timestamp_fields"]

TIMESTAMP_TYPES: Final = frozenset({"timestamp", "timestamp_ntz", "timestamp_ltz"})
"""Spark types that say "a time" without saying how JSON writes it."""

_TYPES: Final[dict[str, FieldType]] = {
    **dict.fromkeys(("tinyint", "byte", "smallint", "short"), "int64"),
    **dict.fromkeys(("int", "integer", "bigint", "long"), "int64"),
    **dict.fromkeys(("float", "real", "double", "decimal", "dec", "numeric"), "float64"),
    "boolean": "bool",
    **dict.fromkeys(("string", "char", "varchar", "date", *TIMESTAMP_TYPES), "string"),
}
_UNREADABLE: Final = {
    "array": "arrays are not read; aggregate them before they are produced, or leave the field out",
    "map": "maps are not read; name the keys you need as a struct",
    "binary": "JSON has no bytes; use string",
}
_TOKEN: Final = re.compile(
    r"""\s*(?:
        (?P<word>[^\W\d]\w*(?:-\w+)*|\d+\w*)
      | `(?P<quoted>(?:[^`]|``)+)`
      | (?P<text>'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*")
      | (?P<mark>[<>(),:])
    )""",
    re.VERBOSE,
)


def parse_ddl(text: str) -> list[EventField]:
    """The leaf fields of a Spark DDL schema, in order; nested structs are dotted paths.

    Raises DefinitionError that names the field, or the place, that cannot be read.
    """
    return [field for field, _ in _Parser(text).schema()]


def timestamp_fields(text: str) -> frozenset[str]:
    """Names of the leaf fields declared as one of Spark's timestamp types."""
    return frozenset(
        f.name for f, declared in _Parser(text).schema() if declared in TIMESTAMP_TYPES
    )


class _Parser:
    """Recursive descent over the tokens; every method starts at the current token."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = _tokens(text)
        self.at = 0

    def schema(self) -> list[tuple[EventField, str]]:
        """A whole schema, with or without `STRUCT<…>` around it."""
        wrapped = self._peek().lower() == "struct" and self._peek(1) == "<"
        if wrapped:
            self.at += 2
        fields = self._fields((), True)
        if wrapped:
            self._expect(">")
        if self._peek():
            raise self._error(f"unexpected {self._peek()!r}")
        return fields

    def _fields(self, parent: tuple[str, ...], required: bool) -> list[tuple[EventField, str]]:
        found = self._field(parent, required)
        while self._peek() == ",":
            self.at += 1
            found += self._field(parent, required)
        return found

    def _field(self, parent: tuple[str, ...], required: bool) -> list[tuple[EventField, str]]:
        path = (*parent, self._name())
        name = ".".join(path)
        if self._peek() == ":":
            self.at += 1
        declared = self._peek().lower()
        if declared in _UNREADABLE:
            raise DefinitionError([f"Field {name!r} is {declared}: {_UNREADABLE[declared]}."])
        if declared == "struct":
            self.at += 1
            self._expect("<")
            # Whether the struct itself must be there is said after its closing bracket.
            inner = self._fields(path, True)
            self._expect(">")
            needed = self._constraints(name) and required
            return [(f if needed else _optional(f), kind) for f, kind in inner]
        if declared not in _TYPES:
            raise DefinitionError(
                [
                    f"Field {name!r} has type {declared!r}, which is none of"
                    f" {', '.join(sorted(_TYPES))}, struct."
                ]
            )
        self.at += 1
        self._precision(name)
        not_null = self._constraints(name)
        return [(EventField(name, path, _TYPES[declared], not (not_null and required)), declared)]

    def _precision(self, name: str) -> None:
        """`(10)` or `(10, 2)` after a type: says nothing about the column here."""
        if self._peek() != "(":
            return
        self.at += 1
        while self._peek() != ")":
            if not (self._peek().isdigit() or self._peek() == ","):
                raise self._error(f"field {name!r}: precision must be numbers")
            self.at += 1
        self.at += 1

    def _constraints(self, name: str) -> bool:
        """`NOT NULL` and `COMMENT '…'` in any order; returns whether null is forbidden."""
        not_null = False
        while self._peek().lower() in {"not", "comment"}:
            word = self._peek().lower()
            self.at += 1
            if word == "not":
                if self._peek().lower() != "null":
                    raise self._error(f"field {name!r}: NOT must be followed by NULL")
                not_null = True
            elif not self._peek().startswith(("'", '"')):
                raise self._error(f"field {name!r}: COMMENT must be followed by quoted text")
            self.at += 1
        return not_null

    def _name(self) -> str:
        token = self._peek()
        if not token or not (token[0] == "`" or token[0].isalnum() or token[0] == "_"):
            raise self._error("a field name is expected")
        self.at += 1
        return token.removeprefix("`")

    def _expect(self, mark: str) -> None:
        if self._peek() != mark:
            raise self._error(f"{mark!r} is expected")
        self.at += 1

    def _peek(self, ahead: int = 0) -> str:
        """The token at the current place, "" past the last; a quoted name starts with "`"."""
        place = self.at + ahead
        return self.tokens[place] if place < len(self.tokens) else ""

    def _error(self, what: str) -> DefinitionError:
        before = " ".join(t.removeprefix("`") for t in self.tokens[max(self.at - 4, 0) : self.at])
        where = f"after {before!r}" if before else "at the start"
        return DefinitionError([f"The schema is not Spark DDL text: {what} {where}."])


def _optional(field: EventField) -> EventField:
    return EventField(field.name, field.path, field.type, True)


def _tokens(text: str) -> list[str]:
    found: list[str] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None:
            raise DefinitionError(
                [
                    f"The schema is not Spark DDL text: cannot read {text[at : at + 20].strip()!r};"
                    " names with unusual characters go in backticks."
                ]
            )
        if match["quoted"] is not None:
            found.append("`" + match["quoted"].replace("``", "`"))
        else:
            found.append(match["word"] or match["text"] or match["mark"])
        at = match.end()
    return found
