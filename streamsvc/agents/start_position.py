"""Where an incarnation begins in an event topic that is older than it, by its source's `start`.

It is decided once, by whoever claims the incarnation, and stands in the claim: workers that come
later, and ones that start again before anything was committed, begin at the same records.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from streamsvc.definitions.plan import Source, View
from streamsvc.definitions.start import starts_ahead
from streamsvc.errors import ConfigurationError
from streamsvc.state.incarnations import Claim, holders
from streamsvc.transport.admin import Admin

__all__ = ["start_text", "starts_of"]


def start_text(source: Source) -> str:
    """What a claim says of where its views are to begin; empty is the beginning."""
    return "" if source.start == "earliest" else str(source.start)


def starts_of(admin: Admin, view: View, topic_id: str, claims: Sequence[Claim]) -> dict[int, int]:
    """Source partition -> offset at which a new incarnation of the view begins.

    Where an earlier incarnation on the same topic began, by the same words: `latest` is the end of
    the topic as of the first one, or each changed definition would forget what came before it.
    `claims` are those before this one. Raises ConfigurationError for a time that lies ahead.
    """
    source, text = view.source, start_text(view.source)
    if not text:
        return {}
    if mistakes := starts_ahead([source], time.time_ns() // 1_000_000):
        raise ConfigurationError(mistakes[0])
    for claim in reversed(holders(view.name, claims)):
        if claim.topic_id == topic_id and claim.start == text:
            return claim.starts
    if isinstance(source.start, int):
        return admin.offsets_since(source.topic, source.start)
    return admin.end_offsets(source.topic)
