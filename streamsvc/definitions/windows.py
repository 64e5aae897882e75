"""The grid of a window, and the digest of a view's definition."""

from __future__ import annotations

import ast
import hashlib
import json
import textwrap
from types import CodeType, FunctionType, ModuleType
from typing import Any

from streamsvc.definitions.plan import Aggregate, JoinKey, Source

__all__ = ["LEAST_HOP_MS", "MOST_TILES", "default_hop_ms", "definition_hash", "udf_fingerprint"]

LEAST_HOP_MS = 1_000
"""Below a second, tiles cost more than they tell: the right edge of a window is exact anyway."""
MOST_TILES = 10_000
"""Tiles that one window may span; every emission of a key folds over them."""
_DEFAULT_TILES = 60


def default_hop_ms(window_ms: int) -> int:
    """The hop of a window that declares none: a sixtieth of it, or the next larger whole part.

    A part is whole milliseconds, at least a second, and divides the window.

    >>> default_hop_ms(3_600_000), default_hop_ms(10_000), default_hop_ms(61_000)
    (60000, 1000, 1220)
    """
    for parts in range(_DEFAULT_TILES, 0, -1):
        hop, rest = divmod(window_ms, parts)
        if rest == 0 and hop >= LEAST_HOP_MS:
            return hop
    return window_ms


def definition_hash(
    name: str,
    source: Source,
    join_keys: tuple[JoinKey, ...],
    aggregates: tuple[Aggregate, ...],
    feature_types: dict[str, str],
    udf: str,
) -> str:
    """Hex digest of what decides a view's values; the same in every process.

    Not in it: where the archive lies, and the bound on future event times, which is an operator's
    guard against broken clocks; moving either must not rebuild anyone's windows.
    """
    schema = source.schema
    text = json.dumps(
        {
            "view": name,
            "topic": source.topic,
            "fields": [[f.name, list(f.path), f.type, f.nullable] for f in schema.fields],
            "timestamp_field": schema.timestamp_field,
            "time_unit": schema.time_unit,
            "allowed_lateness_ms": source.allowed_lateness_ms,
            "key_field": source.key_field,
            "join_keys": [[k.name, k.type] for k in join_keys],
            "aggregates": [
                [a.feature, a.column, a.function, a.window_ms, a.hop_ms] for a in aggregates
            ],
            "feature_types": feature_types,
            "udf": udf,
            # Left out where nothing is said, because hashes are older than what can be said.
            **({} if schema.encoding is None else {"encoding": repr(schema.encoding)}),
            **({} if source.start == "earliest" else {"start": source.start}),
        },
        sort_keys=True,
    )
    return hashlib.sha256(text.encode()).hexdigest()


def udf_fingerprint(udf: Any, source_text: str | None) -> str:
    """A text that changes when the udf does: its source without comments and layout.

    Constants and functions of the module that the udf uses count too. Functions, and a udf without
    source text, are known by their bytecode only, so a new Python version changes them.
    """
    code = _source_text(source_text or "") or _code_text(udf.__code__)
    used = sorted(_names(udf.__code__) & set(udf.__globals__))
    return "\n".join([code, *(f"{name} = {_value_text(udf.__globals__[name])}" for name in used)])


def _source_text(source: str) -> str:
    """The function alone, without its decorators; empty for text that does not stand by itself."""
    try:
        tree = ast.parse(textwrap.dedent(source))
    except SyntaxError:
        return ""  # a lambda cut out of its call
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.decorator_list = []
    return ast.unparse(tree)


def _value_text(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    if isinstance(value, FunctionType):
        return _code_text(value.__code__)
    if isinstance(value, CodeType):
        return _code_text(value)
    if isinstance(value, (set, frozenset)):
        return repr(sorted(value, key=repr))
    if isinstance(value, (str, bytes, int, float, tuple, list, dict, type(None))):
        return repr(value)
    return type(value).__qualname__  # a repr may hold an address, which differs by process


def _code_text(code: CodeType) -> str:
    constants = [_value_text(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {constants} {code.co_names}"


def _names(code: CodeType) -> set[str]:
    nested = [_names(c) for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*nested)
