"""Corrections of values that are sent again: a file, or a function of somebody's own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from streamsvc.agents.letter_replay import Correction
    from streamsvc.cli.context import CliContext

__all__ = ["correction_of"]


def correction_of(
    context: CliContext, value: Path | None, correct: str | None
) -> Correction | None:
    """What --value or --correct ask for; None if neither is given.

    Raises ConfigurationError for a file or a function that cannot be used.
    """
    from streamsvc.errors import ConfigurationError

    if value is not None:
        try:
            content = (context.repo / value).read_bytes()
        except OSError as error:
            raise ConfigurationError(f"--value: cannot read {value}: {error.strerror}") from error
        return lambda _: content
    if correct is None:
        return None
    path, _, name = correct.rpartition(":")
    try:
        namespace: dict[str, Any] = {"__name__": "corrections", "__file__": path}
        exec(compile((context.repo / path).read_text(), path, "exec"), namespace)
        function = namespace[name]
    except (OSError, SyntaxError, KeyError) as error:
        raise ConfigurationError(
            f"--correct is {correct!r}; give FILE.py:FUNCTION, relative to the repo ({error!r})"
        ) from error

    def corrected(before: bytes | None) -> bytes | None:
        after = function(before)
        if after is not None and not isinstance(after, bytes):
            raise ConfigurationError(
                f"--correct {correct}: the function returned {type(after).__name__}; return bytes, "
                "or None to leave a record out"
            )
        return after

    return corrected
