"""Bringing several servers up side by side, each to its first answer."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from streamsvc.errors import UnavailableError
from streamsvc.local import ports, processes
from streamsvc.local.paths import StackPaths
from streamsvc.local.report import Report
from streamsvc.local.service import Service, elsewhere, tail
from streamsvc.local.state import Running, StackState

__all__ = ["Starter"]

_POLL_S = 0.05
# How long a server that runs already may be silent before it is taken for hung.
_SILENCE_S = 5.0
# What a server that was killed held open is closed within so long, on a machine that is busy.
_RELEASE_S = 3.0
# Starts per server; a second one is for a port that was taken in between.
_ATTEMPTS = 4
_MAX_LOG_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class _Attempt:
    service: Service
    running: Running
    deadline: float
    """On the monotonic clock."""
    number: int
    """0 for a server that ran before this call."""


class Starter:
    """One call of `up`. `optional` names servers whose failure does not end it."""

    def __init__(
        self, paths: StackPaths, state: StackState, report: Report, optional: Collection[str]
    ) -> None:
        self._paths = paths
        self._state = state
        self._report = report
        self._optional = optional
        self._launched: dict[str, Service] = {}

    def run(self, services: Sequence[Service]) -> list[tuple[Service, str]]:
        """Return once each server has answered; the optional ones that cannot run, and why.

        Raises UnavailableError if another cannot run. Whatever ends it early, an interrupt too,
        the servers that it had launched are stopped again.
        """
        given_up: list[tuple[Service, str]] = []
        try:
            pending = []
            # Last to first: the quick ones are on their way while Kafka formats its data.
            for service in reversed(services):
                try:
                    pending.append(self._begin(service))
                except UnavailableError as error:
                    self._give_up(service, error, given_up)
            with self._report.working(f"Starting {', '.join(s.title for s in services)}"):
                while pending:
                    pending = self._pass(pending, given_up)
                    if pending:
                        time.sleep(_POLL_S)
        except BaseException:
            for service in self._launched.values():
                self._stop(service)
            raise
        return given_up

    def _begin(self, service: Service) -> _Attempt:
        running = self._state.running(service.name)
        if running is not None and processes.is_alive(running.process):
            return _Attempt(service, running, time.monotonic() + _SILENCE_S, 0)
        service.prepare(self._report)
        return self._launch(service, 1, self._state.last_ports(service.name))

    def _launch(self, service: Service, number: int, last: dict[str, int]) -> _Attempt:
        # What an earlier process of this server left behind holds its ports and its data.
        self._stop(service)
        chosen: dict[str, int] = {}
        for role, customary in service.ports.items():
            preferred = [last[role]] if role in last else []
            if preferred:  # whoever was told of it should find the server there again
                ports.await_free(preferred[0], _RELEASE_S)
            chosen[role] = ports.choose([*preferred, customary], self._spoken_for(chosen))
        launch = service.launch(chosen)
        log = self._paths.log(service.name)
        if log.exists() and log.stat().st_size > _MAX_LOG_BYTES:
            log.replace(log.with_suffix(".log.1"))
        self._launched[service.name] = service
        process = processes.spawn(
            launch.argv, launch.environment, log, self._paths.mark(service.name)
        )
        running = Running(process, chosen)
        self._state.started(service.name, running)
        return _Attempt(service, running, time.monotonic() + service.ready_s, number)

    def _spoken_for(self, chosen: dict[str, int]) -> set[int]:
        """Ports of this call that may not be bound yet."""
        found = set(chosen.values())
        for name in self._launched:
            running = self._state.running(name)
            if running is not None:
                found |= set(running.ports.values())
        return found

    def _pass(
        self, pending: Sequence[_Attempt], given_up: list[tuple[Service, str]]
    ) -> list[_Attempt]:
        still = []
        for attempt in pending:
            service, running = attempt.service, attempt.running
            if service.answers(running.ports, running.process):
                continue
            alive = processes.is_alive(running.process)
            if alive and time.monotonic() < attempt.deadline:
                still.append(attempt)
                continue
            try:
                still.append(self._again(attempt, alive))
            except UnavailableError as error:
                self._give_up(service, error, given_up)
        return still

    def _again(self, attempt: _Attempt, alive: bool) -> _Attempt:
        """Another attempt where one makes sense. Raises UnavailableError where none does."""
        service = attempt.service
        self._stop(service)
        if attempt.number == 0:
            service.prepare(self._report)
            return self._launch(service, 1, dict(attempt.running.ports))
        taken = [p for p in attempt.running.ports.values() if not ports.is_free(p)]
        if taken and attempt.number < _ATTEMPTS:
            return self._launch(service, attempt.number + 1, dict(attempt.running.ports))
        what = f"did not answer within {service.ready_s:.0f} s" if alive else "ended at its start"
        log = self._paths.log(service.name)
        raise UnavailableError(
            f"{service.title} {what}. {elsewhere(service.setting)} The end of {log}:\n"
            f"{tail(log, 8)}"
        )

    def _give_up(
        self,
        service: Service,
        error: UnavailableError,
        given_up: list[tuple[Service, str]],
    ) -> None:
        if service.name not in self._optional:
            raise error
        self._launched.pop(service.name, None)
        given_up.append((service, str(error)))

    def _stop(self, service: Service) -> None:
        known = self._state.process(service.name)
        processes.stop(self._paths.mark(service.name), service.stop_s, known)
        service.clean_up()
        self._state.stopped(service.name)
