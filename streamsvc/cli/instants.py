"""Instants on the command line."""

from __future__ import annotations

__all__ = ["instant"]


def instant(option: str, text: str | None) -> int | None:
    """Milliseconds of an ISO-8601 date or time; UTC unless it says otherwise.

    Raises ConfigurationError that names the option.
    """
    from datetime import UTC, datetime

    from streamsvc.errors import ConfigurationError

    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigurationError(f"{option} is {text!r}; give an ISO-8601 date or time") from error
    aware = found if found.tzinfo else found.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1_000)
