"""What the stack needs to know about a server to run it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from streamsvc.local.processes import ProcessId
from streamsvc.local.report import Report

__all__ = ["Launch", "Service"]


@dataclass(frozen=True, slots=True)
class Launch:
    """How to start a server: an absolute program with its arguments, and its whole environment."""

    argv: tuple[str, ...]
    environment: Mapping[str, str]


class Service(ABC):
    """One server of the stack."""

    name: ClassVar[str]
    title: ClassVar[str]
    setting: ClassVar[str]
    """The Settings field that says where it is; given there, an existing server is used."""
    ports: ClassVar[Mapping[str, int]]
    """Role to customary port. The first role is the one that clients connect to."""
    ready_s: ClassVar[float]
    """Seconds it may take from its start to its first answer."""
    stop_s: ClassVar[float]
    """Seconds it may take to shut down before it is killed."""

    @abstractmethod
    def prepare(self, report: Report) -> None:
        """Fetch and write whatever it needs. Idempotent, and needs no network once it has run.

        Raises UnavailableError if it cannot run on this machine.
        """

    @abstractmethod
    def launch(self, ports: Mapping[str, int]) -> Launch:
        """Write its configuration for these ports and say how to start it."""

    @abstractmethod
    def answers(self, ports: Mapping[str, int], process: ProcessId) -> bool:
        """Whether this very server, not a stranger on its port, answered one request just now.

        Takes at most about a second.
        """

    @abstractmethod
    def endpoints(self, ports: Mapping[str, int]) -> dict[str, str]:
        """The settings that clients need; keys are Settings fields."""

    def clean_up(self) -> None:
        """Remove what a killed server leaves outside its data directory."""
        return


def elsewhere(setting: str) -> str:
    """The end of every sentence that says something cannot run here."""
    return f"To use an existing server instead, set STREAMSVC_{setting.upper()}."


def tail(path: Path, n_lines: int) -> str:
    """The last lines of a log, for a message."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(line for line in lines[-n_lines:])
