"""Where in an old topic the views of a source begin: the tag `streamsvc.start`.

It says where a view begins that has no state. One that has state goes on where it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from streamsvc.definitions.plan import Source, Start
from streamsvc.definitions.route import TAG_PREFIX

__all__ = ["START", "parse_start", "starts_ahead"]

START: Final = "start"
_MOST_MS: Final = 253_402_300_799_999  # the end of year 9999


def parse_start(what: str, tags: Mapping[str, str], mistakes: list[str]) -> Start:
    """The tag's value; appends a mistake if it is none. A time without a zone is UTC."""
    text = tags.get(TAG_PREFIX + START, "earliest")
    if text == "earliest":
        return "earliest"
    if text == "latest":
        return "latest"
    try:
        found = datetime.fromisoformat(text)
        aware = found if found.tzinfo else found.replace(tzinfo=UTC)
        ms = round(aware.timestamp() * 1_000)
    except (ValueError, OverflowError):
        ms = -1
    if not 0 <= ms <= _MOST_MS:
        mistakes.append(
            f"{what}: tag '{TAG_PREFIX}{START}' is {text!r}; set it to 'earliest', 'latest', or "
            "an ISO-8601 time since 1970 such as '2026-01-31T00:00:00Z'."
        )
        return "earliest"
    return ms


def starts_ahead(sources: Iterable[Source], now_ms: int) -> list[str]:
    """Mistakes: sources that are to begin in the future, which nobody can place in a topic yet."""
    return [
        f"KafkaSource {source.name!r}: tag '{TAG_PREFIX}{START}' names a time that lies ahead; set "
        "it to one that has passed, or to 'latest' to begin with what comes from now on."
        for source in sources
        if isinstance(source.start, int) and source.start > now_ms
    ]
