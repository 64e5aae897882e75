"""Events in time: what the windows need to have seen before, and the days that are replayed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamsvc.agents.replay import Timeline, publish, read_events
from streamsvc.definitions.plan import Plan
from streamsvc.errors import UnavailableError
from streamsvc.events.wire import CLOCK_HEADER, format_clock
from streamsvc.settings import Settings
from streamsvc.store.client import connect
from streamsvc.store.markers import read_markers
from streamsvc.transport.admin import Admin
from streamsvc.transport.kafka_config import librdkafka_config

__all__ = ["Period", "await_applied", "period", "read_timeline", "warm_up"]

_DAY_MS = 86_400_000
_START_MS = 1_380_585_600_000  # 2013-10-01T00:00Z
_LAST_MS = 1_388_534_400_000  # 2014-01-01T00:00Z

_POLL_S = 0.05
_APPLIED_S = 300.0


@dataclass(frozen=True, slots=True)
class Period:
    """Instants in milliseconds since the epoch; requests of start_ms <= time < end_ms are asked."""

    days: int
    warm_from_ms: int
    """From here on events are in a window of some request; 0, which is before any flight, if
    something is aggregated over all time."""
    start_ms: int
    end_ms: int

    def before(self) -> tuple[int, int]:
        """Where the events of the warm-up lie."""
        return self.warm_from_ms, self.start_ms


def period(plan: Plan, days: int) -> Period:
    """`days` days from the first of October 2013 on, and what their windows reach back to."""
    reach_ms = max((a.window_ms + a.hop_ms for v in plan.views for a in v.aggregates), default=0)
    end_ms = min(_LAST_MS, _START_MS + days * _DAY_MS)
    return Period(days, max(0, _START_MS - reach_ms), _START_MS, end_ms)


def read_timeline(
    plan: Plan, repo: Path, topics: Sequence[str], span: tuple[int, int], requests: str
) -> Timeline:
    """Archived events of these topics with span[0] <= event time < span[1]."""
    files = [
        read_events(source, repo / source.archive_path, from_ms=span[0], until_ms=span[1])
        for source in plan.sources
        if source.topic in topics and source.archive_path is not None
    ]
    return Timeline.of(files, {requests})


def warm_up(settings: Settings, timeline: Timeline, clock_ms: int) -> int:
    """Publish events at full speed, then set every partition's clock; returns how many events.

    The clock stays at `clock_ms` until later events come, so that no window moves on with the wall.
    """
    publish(settings, timeline)
    _send_clocks(settings, timeline.topics(), clock_ms)
    return len(timeline)


def await_applied(
    settings: Settings, plan: Plan, topics: Sequence[str], check: Callable[[], None]
) -> None:
    """Return once the features hold every event that these topics hold now.

    Raises UnavailableError if that takes too long, and whatever `check` raises.
    """
    admin, client = Admin(settings), connect(settings)
    ends = {topic: admin.end_offsets(topic) for topic in topics}
    views = [view for view in plan.views if view.source.topic in ends]
    deadline = time.monotonic() + _APPLIED_S
    while views:
        behind = []
        for view in views:
            wanted = ends[view.source.topic]
            partitions = range(settings.key_groups) if view.shuffled else sorted(wanted)
            markers = read_markers(client, plan.project, view.name, list(partitions))
            for partition, marker in zip(partitions, markers, strict=True):
                needed = wanted if view.shuffled else {partition: wanted[partition]}
                held = {} if marker is None else marker.applied.get(view.source.topic, {})
                if any(held.get(p, 0) < end for p, end in needed.items()):
                    behind.append(view)
                    break
        views = behind
        check()
        if views and time.monotonic() > deadline:
            names = ", ".join(view.name for view in views)
            raise UnavailableError(f"The feature worker did not get through the events of {names}")
        if views:
            time.sleep(_POLL_S)


def _send_clocks(settings: Settings, topics: Sequence[str], clock_ms: int) -> None:
    from confluent_kafka import Producer

    admin = Admin(settings)
    producer = Producer({**librdkafka_config(settings), "enable.idempotence": True})
    headers = [(CLOCK_HEADER, format_clock(clock_ms))]
    for topic in topics:
        for partition in range(admin.partitions(topic)):
            producer.produce(topic, None, None, partition, headers=headers)
    if producer.flush(30.0):
        raise UnavailableError("Kafka did not take the clock records")
