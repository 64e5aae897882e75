"""Every error that streamsvc raises on purpose.

    StreamsvcError
    ├── ConfigurationError      a setting or argument is wrong; names it            (exit 2)
    │   └── DefinitionError     the Feast repo is wrong; lists every mistake        (exit 2)
    ├── UnavailableError        a server cannot be reached, or cannot run here      (exit 3)
    ├── IntegrityError          going on would lose or repeat data; names the remedy (exit 4)
    └── CheckFailedError        a comparison that was asked for did not hold         (exit 1)

Bad *records* are not errors: they are values that travel to `<topic>.dead`.
The message says what was wrong, where, and what to do. Errors of libraries are mapped at the edge
where they arise, with `raise … from`.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "CheckFailedError",
    "ConfigurationError",
    "DefinitionError",
    "IntegrityError",
    "StreamsvcError",
    "UnavailableError",
]


class StreamsvcError(Exception):
    """Root of the tree. `exit_code` is what the command line returns for it."""

    exit_code = 1
    retriable = False


class ConfigurationError(StreamsvcError):
    """A setting or argument is wrong; the message names it. Not retriable."""

    exit_code = 2


class DefinitionError(ConfigurationError):
    """The Feast repo cannot be run as written.

    `mistakes` holds one sentence each: the object, what is wrong with it, and the fix.
    """

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(self.mistakes))


class UnavailableError(StreamsvcError):
    """A server cannot be reached or cannot run on this machine. Retriable once it is back."""

    exit_code = 3
    retriable = True


class IntegrityError(StreamsvcError):
    """Going on would lose, repeat or mix data. Not retriable; the message names the remedy."""

    exit_code = 4


class CheckFailedError(StreamsvcError):
    """A comparison that was asked for (check, parity, golden vectors) did not hold."""

    exit_code = 1
