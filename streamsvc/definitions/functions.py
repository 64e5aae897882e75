"""The aggregation functions: what there is, and which column types each takes."""

from __future__ import annotations

from streamsvc.definitions.plan import FieldType

__all__ = ["FUNCTIONS", "NUMBERS_ONLY", "functions_of", "is_function", "percent_of", "takes"]

FUNCTIONS = (
    "count",
    "count_distinct",
    "first",
    "last",
    "max",
    "mean",
    "min",
    "std",
    "sum",
    "var",
    "p1 … p99",
)
"""As a user is told them."""
_NAMES = frozenset(FUNCTIONS[:-1])
_OF_TEXT = frozenset({"count", "count_distinct", "first", "last", "max", "min", "latest"})
NUMBERS_ONLY = "p1 … p99"
_LATEST = "latest"
"""Value in the newest row, null included. Only views without aggregations have it."""


def percent_of(function: str) -> int | None:
    """The percent of a percentile, None for any other function.

    >>> percent_of("p95"), percent_of("p07"), percent_of("p100"), percent_of("sum")
    (95, None, None, None)
    """
    digits = function[1:]
    plain = function[:1] == "p" and digits.isascii() and digits.isdecimal()
    return int(digits) if plain and digits[0] != "0" and len(digits) <= 2 else None


def is_function(function: str) -> bool:
    """Whether the engine knows it.

    >>> is_function("p5"), is_function("median")
    (True, False)
    """
    return function in _NAMES or function == _LATEST or percent_of(function) is not None


def takes(function: str, column: FieldType) -> bool:
    """Whether a known function takes such a column.

    >>> takes("max", "string"), takes("mean", "string"), takes("p50", "bool")
    (True, False, False)
    """
    if column == "string":
        return function in _OF_TEXT
    return column != "bool" or percent_of(function) is None


def functions_of(column: FieldType) -> str:
    """The functions that take such a column, to end a sentence with."""
    return ", ".join(f for f in FUNCTIONS if takes("p50" if f == NUMBERS_ONLY else f, column))
