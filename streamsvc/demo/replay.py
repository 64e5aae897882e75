"""The replay itself: events and requests in lockstep, watched from outside."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from types import TracebackType

from streamsvc.agents.replay import LockstepReport, Timeline, lockstep
from streamsvc.definitions.plan import Route
from streamsvc.demo.freshness import freshness_between, read_buckets
from streamsvc.demo.live import ReplayView
from streamsvc.demo.model import inference_count
from streamsvc.demo.narrator import Narrator
from streamsvc.demo.scoreboard import Latencies, Scoreboard
from streamsvc.demo.watch import Watch
from streamsvc.demo.workers import Workers
from streamsvc.settings import Settings

__all__ = ["Replayed", "replay"]

_SHOW_EVERY_S = 0.5
_FRESHNESS_EVERY_S = 5.0  # asking costs the worker tens of milliseconds
_ANSWER_S = 60.0
_JOIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of it."""

    scoreboard: Scoreboard
    published: LockstepReport
    freshness_ms: Latencies
    triton_inferences: int


def replay(
    settings: Settings,
    timeline: Timeline,
    route: Route,
    event_topics: tuple[str, ...],
    arrivals: str,
    *,
    narrator: Narrator,
    workers: Workers,
    metrics_port: int,
) -> Replayed:
    """Publish a timeline in lockstep with its predictions and wait for all that comes of it.

    `metrics_port` is the feature worker's. Raises UnavailableError if a worker ends, or a request
    stays unanswered.
    """
    scoreboard = Scoreboard()
    before = read_buckets(metrics_port)
    inferences = inference_count(settings, route.model)
    freshness = Latencies.of(())
    with (
        Watch(
            settings,
            scoreboard,
            requests=route.requests,
            predictions=route.predictions,
            arrivals=arrivals,
        ) as watch,
        ReplayView(narrator, len(timeline)) as view,
        _Publisher(settings, timeline, route, event_topics) as publisher,
    ):
        measured_at = time.monotonic()
        while not publisher.wait(_SHOW_EVERY_S):
            workers.check()
            if narrator.live and time.monotonic() - measured_at > _FRESHNESS_EVERY_S:
                measured_at = time.monotonic()
                freshness = freshness_between(before, read_buckets(metrics_port))
            done = publisher.done
            event_ms = int(timeline.times[max(0, done - 1)])
            view.show(done, event_ms, scoreboard.standing(), freshness)
        published = publisher.report()
        watch.drain()
    return Replayed(
        scoreboard,
        published,
        freshness_between(before, read_buckets(metrics_port)),
        inference_count(settings, route.model) - inferences,
    )


class _StoppedError(Exception):
    """The publisher was told to end."""


class _Publisher:
    """`lockstep` on a thread of its own, so that Ctrl-C and the view need not wait for it."""

    def __init__(
        self, settings: Settings, timeline: Timeline, route: Route, event_topics: tuple[str, ...]
    ) -> None:
        self.done = 0
        """Records published so far."""
        self._arguments = (settings, timeline, route, event_topics)
        self._report: LockstepReport | None = None
        self._error: BaseException | None = None
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)

    def __enter__(self) -> _Publisher:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop = True
        self._thread.join(_JOIN_S)

    def wait(self, seconds: float) -> bool:
        """Whether everything is published and answered, or something failed."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def report(self) -> LockstepReport:
        """What was published. Raises what went wrong."""
        if self._error is not None:
            raise self._error
        assert self._report is not None
        return self._report

    def _run(self) -> None:
        settings, timeline, route, event_topics = self._arguments
        try:
            self._report = lockstep(
                settings,
                timeline,
                requests=route.requests,
                predictions=route.predictions,
                event_topics=event_topics,
                answer_timeout_s=_ANSWER_S,
                on_progress=self._progress,
            )
        except Exception as error:  # noqa: BLE001 - handed to whoever asks for the report
            self._error = error

    def _progress(self, done: int) -> None:
        self.done = done
        if self._stop:
            raise _StoppedError
