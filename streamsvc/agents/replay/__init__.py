"""Archived events, published again in event-time order: as fast as can be, at a pace, in lockstep.

Records keep the wall clock as their Kafka timestamp; event time is in the payload. Records stamped
with their event time would be deleted by retention at once.
"""

from streamsvc.agents.replay.files import EventFile, read_events
from streamsvc.agents.replay.lockstep import LockstepReport, event_topics, lockstep
from streamsvc.agents.replay.publish import PublishReport, publish
from streamsvc.agents.replay.timeline import Timeline

__all__ = [
    "EventFile",
    "LockstepReport",
    "PublishReport",
    "Timeline",
    "event_topics",
    "lockstep",
    "publish",
    "read_events",
]
