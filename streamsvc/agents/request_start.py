"""Where a service that has answered nothing yet begins in its request topic."""

from __future__ import annotations

import structlog

from streamsvc.settings import Settings
from streamsvc.transport.admin import Admin
from streamsvc.transport.groups import Groups

__all__ = ["begin_at_the_end"]

log = structlog.get_logger(__name__)


def begin_at_the_end(settings: Settings, group: str, topic: str) -> None:
    """Commit the present ends of a topic for a group that has committed nothing.

    From then on the group has a place in every partition, whatever becomes of this worker; one
    that is added later is read from its beginning. Where workers start at once, each may move the
    group to the end as it sees it, until the first has joined.
    """
    admin = Admin(settings)
    groups = Groups(admin)
    if groups.committed(group, topic):
        return
    ends = admin.end_offsets(topic)
    if groups.begin(group, topic, ends):
        log.info("requests_begin_at_the_end", topic=topic, offsets=ends)
