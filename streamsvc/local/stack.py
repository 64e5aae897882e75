"""Starting, mending and stopping the servers of one repo.

`up` is idempotent: it keeps what runs and answers, starts what does not, and returns when every
server has answered a request. If it fails or is interrupted, it stops what it had started.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from streamsvc.errors import ConfigurationError
from streamsvc.local import processes
from streamsvc.local.kafka import Kafka
from streamsvc.local.paths import StackPaths, write_json
from streamsvc.local.report import Report
from streamsvc.local.service import Service
from streamsvc.local.start import Starter
from streamsvc.local.state import StackState
from streamsvc.local.triton import Triton
from streamsvc.local.valkey import Valkey
from streamsvc.settings import explicit_settings, load_settings

__all__ = ["SERVICES", "LocalStack", "ServiceState", "ServiceStatus"]

SERVICES = (Kafka.name, Valkey.name, Triton.name)

ServiceState: TypeAlias = Literal[
    "running", "not answering", "killed", "stopped", "external", "in-process"
]


@dataclass(frozen=True, slots=True)
class ServiceStatus:
    """One line of `ps`."""

    name: str
    title: str
    state: ServiceState
    address: str | None
    """Where clients connect, None if nowhere."""
    ports: dict[str, int]
    """Role to port of a server of ours that runs; empty otherwise."""
    pid: int | None
    log: Path
    detail: str | None = None


class LocalStack:
    """The servers of the repo at `repo`. Safe to use from several commands at once."""

    def __init__(self, repo: Path, report: Report | None = None) -> None:
        self._repo = repo.resolve()
        self._paths = StackPaths(self._repo)
        self._state = StackState(self._paths)
        self._report = report or Report()

    def up(self, names: Sequence[str] = ()) -> list[ServiceStatus]:
        """Make these servers (all by default) run and answer; returns the state of all.

        Raises UnavailableError if one cannot run; Triton then gives way to the in-process model
        server, unless `model_server` was set to triton on purpose.
        """
        _check_names(names)
        with self._state.exclusive():
            wanted = [s for s in self._services() if not names or s.name in names]
            wanted = [s for s in wanted if not self._is_elsewhere(s)]
            triton = next((s for s in wanted if isinstance(s, Triton)), None)
            if triton is not None:
                self._state.in_process_because = None
                asked = self._model_server
                if asked == "in-process":
                    wanted.remove(triton)
                    self._give_way(triton, "the setting model_server asks for it")
            optional = () if self._model_server == "triton" else (Triton.name,)
            starter = Starter(self._paths, self._state, self._report, optional)
            for service, reason in starter.run(wanted):
                self._give_way(service, reason)
            self._write_endpoints()
            return self._status()

    def down(self, *, volumes: bool = False) -> list[str]:
        """Stop every server and whatever it left behind; returns the names of those that ran.

        `volumes` also removes all data: topics, features, models, logs.
        """
        if not self._paths.root.exists():
            return []
        with self._state.exclusive():
            services = self._services()
            # All are told first, so that they shut down side by side.
            ran = [s.name for s in services if self._tell(s)]
            for service in services:
                self._end(service)
            self._paths.endpoints.unlink(missing_ok=True)
            if volumes:
                shutil.rmtree(self._paths.root)
            return ran

    def status(self) -> list[ServiceStatus]:
        """The state of every server now; asks each that runs for one answer."""
        return self._status()

    def logs(self, names: Sequence[str] = ()) -> dict[str, Path]:
        """Log file of each server that has one."""
        _check_names(names)
        found = {name: self._paths.log(name) for name in (names or SERVICES)}
        return {name: path for name, path in found.items() if path.exists()}

    @property
    def in_process_because(self) -> str | None:
        """Why Triton does not run the models; None if it does."""
        return self._state.in_process_because

    @property
    def _model_server(self) -> str | None:
        return explicit_settings(self._repo).get("model_server")

    def _services(self) -> list[Service]:
        models = self._repo / load_settings(self._repo).model_repository
        return [
            Kafka(self._paths.data(Kafka.name)),
            Valkey(self._paths.data(Valkey.name)),
            Triton(self._paths.data(Triton.name), models),
        ]

    def _is_elsewhere(self, service: Service) -> bool:
        """Whether the user named an existing server, rather than ours by way of `env`."""
        given = explicit_settings(self._repo).get(service.setting)
        last = self._state.last_ports(service.name)
        ours = service.endpoints(last)[service.setting] if last else None
        return given is not None and given != ours

    def _tell(self, service: Service) -> bool:
        """Ask a server to end; whether there was anything to ask."""
        known = self._state.process(service.name)
        return processes.send(signal.SIGTERM, self._paths.mark(service.name), known) > 0

    def _end(self, service: Service) -> None:
        known = self._state.process(service.name)
        processes.stop(self._paths.mark(service.name), service.stop_s, known)
        service.clean_up()
        self._state.stopped(service.name)

    def _give_way(self, service: Service, reason: str) -> None:
        self._end(service)
        self._state.in_process_because = reason
        self._report.line(
            f"[yellow]Models run inside the scoring worker, not on Triton:[/yellow] {reason}"
        )

    def _write_endpoints(self) -> None:
        found: dict[str, str] = {}
        for service in self._services():
            running = self._state.running(service.name)
            if running is not None and processes.is_alive(running.process):
                found |= service.endpoints(running.ports)
        if self._state.in_process_because is not None:
            found["model_server"] = "in-process"
        write_json(self._paths.endpoints, found)

    def _status(self) -> list[ServiceStatus]:
        return [self._status_of(service) for service in self._services()]

    def _status_of(self, service: Service) -> ServiceStatus:
        def told(
            state: ServiceState,
            address: str | None = None,
            ports: dict[str, int] | None = None,
            pid: int | None = None,
            detail: str | None = None,
        ) -> ServiceStatus:
            log = self._paths.log(service.name)
            return ServiceStatus(
                service.name, service.title, state, address, ports or {}, pid, log, detail
            )

        running = self._state.running(service.name)
        if running is None:
            if self._is_elsewhere(service):
                given = explicit_settings(self._repo)[service.setting]
                return told("external", _without_password(given))
            reason = self._state.in_process_because
            if (
                isinstance(service, Triton)
                and reason is not None
                and self._paths.endpoints.exists()
            ):
                return told("in-process", detail=reason)
            return told("stopped")
        pid = running.process.pid
        if not processes.is_alive(running.process):
            detail = f"process {pid} is gone; `streamsvc up` starts it again"
            return told("killed", detail=detail)
        address = service.endpoints(running.ports)[service.setting]
        if not service.answers(running.ports, running.process):
            detail = "`streamsvc up` starts it again if it stays so"
            return told("not answering", address, dict(running.ports), pid, detail)
        return told("running", address, dict(running.ports), pid)


def _check_names(names: Sequence[str]) -> None:
    for name in names:
        if name not in SERVICES:
            raise ConfigurationError(
                f"There is no server {name!r} in the stack; it has {', '.join(SERVICES)}."
            )


def _without_password(address: str) -> str:
    scheme, separator, rest = address.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"
