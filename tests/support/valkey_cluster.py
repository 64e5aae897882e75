"""A Redis Cluster of local processes: three primaries, and a replica of each."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import redis

from streamsvc.local import ports
from streamsvc.local.valkey import find_server

PRIMARIES = 3
SLOTS = 16_384
PATIENCE_S = 60
NODE_TIMEOUT_MS = 2_000


class ValkeyCluster:
    """A context manager; `url` names its nodes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.ports: list[int] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        self.clients: list[redis.Redis] = []

    def __enter__(self) -> ValkeyCluster:
        try:
            for _ in range(2 * PRIMARIES):
                self._start()
            self._join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.clients:
            client.close()
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait(20)

    @property
    def url(self) -> str:
        return "redis://" + ",".join(f"127.0.0.1:{port}" for port in self.ports)

    def primary_of(self, slot: int) -> int:
        """The number of the node that a living node takes for the primary of this slot."""
        living = next(c for c, p in zip(self.clients, self.processes, strict=True) if alive(p))
        for first, last, (_, port, *_), *_ in living.execute_command("CLUSTER SLOTS"):
            if first <= slot <= last:
                return self.ports.index(port)
        raise AssertionError(slot)

    def replica_of(self, primary: int) -> int:
        identity = self._identity(primary)
        for number, client in enumerate(self.clients):
            if alive(self.processes[number]):
                role = client.execute_command("ROLE")
                if role[0] in ("slave", b"slave") and role[2] == self.ports[primary]:
                    return number
        raise AssertionError(identity)

    def cut_off(self, replica: int, primary: int) -> None:
        """Nothing of what is written from now on reaches the replica, which is stopped."""
        self.processes[replica].send_signal(signal.SIGSTOP)
        self.clients[primary].execute_command("CLIENT", "KILL", "TYPE", "replica")

    def kill(self, number: int) -> None:
        self.processes[number].kill()
        self.processes[number].wait(20)

    def wait_until(self, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                if holds():
                    return
            except redis.RedisError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def _start(self) -> None:
        # The bus of a node is its port and 10,000.
        port = ports.choose([17_000], self.ports)
        number = len(self.ports)
        data = self._directory / str(number)
        data.mkdir(parents=True)
        options = {
            "bind": "127.0.0.1",
            "port": port,
            "dir": data,
            "save": "",
            "appendonly": "no",
            "cluster-enabled": "yes",
            "cluster-node-timeout": NODE_TIMEOUT_MS,
            # A replica that lagged takes over, too: what it lacks is lost.
            "cluster-replica-validity-factor": 0,
            "repl-diskless-sync-delay": 0,
        }
        flags = [str(part) for key, value in options.items() for part in (f"--{key}", value)]
        with (data / "log").open("wb") as log:
            process = subprocess.Popen([find_server(), *flags], stdout=log, stderr=log)
        self.ports.append(port)
        self.processes.append(process)
        client = redis.Redis(port=port, socket_timeout=2.0)
        self.clients.append(client)
        self.wait_until(lambda: bool(client.ping()))

    def _join(self) -> None:
        for number, client in enumerate(self.clients):
            client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < PRIMARIES:
                first, last = (SLOTS * n // PRIMARIES for n in (number, number + 1))
                client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, last - 1)
            client.execute_command("CLUSTER", "MEET", "127.0.0.1", self.ports[0])
        for number in range(PRIMARIES, 2 * PRIMARIES):
            client, primary = self.clients[number], self._identity(number - PRIMARIES)
            self.wait_until(
                lambda c=client, p=primary: bool(c.execute_command("CLUSTER", "REPLICATE", p))
            )
        for client in self.clients:
            self.wait_until(lambda c=client: self._whole(c))

    def _identity(self, number: int) -> str:
        return self.clients[number].execute_command("CLUSTER", "MYID").decode()

    def _whole(self, client: redis.Redis) -> bool:
        slots = client.execute_command("CLUSTER SLOTS")
        replicated = sum(len(entry) > 3 for entry in slots)
        role = client.execute_command("ROLE")
        linked = role[0] in ("master", b"master") or role[3] in ("connected", b"connected")
        info = client.execute_command("CLUSTER INFO")
        ok = "cluster_state:ok" in (info.decode() if isinstance(info, bytes) else str(info)) or (
            isinstance(info, dict) and info.get("cluster_state") == "ok"
        )
        return replicated == PRIMARIES and linked and ok


def alive(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is None
