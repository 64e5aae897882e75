"""Servers of their own, that may be killed, and the links through which workers reach them."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import SecretStr
from support.proxy import Relay

from streamsvc.local import processes
from streamsvc.local.kafka import Kafka
from streamsvc.local.service import Launch, Service
from streamsvc.local.stack import LocalStack
from streamsvc.settings import Settings, load_settings
from streamsvc.store.client import connect

OUT_OF_THE_WAY = 10_000
"""From the customary ports, which another stack of the machine takes while a server is down: it
would come back on others, and nobody would find it."""
SERVERS = {"kafka": "kafka", "store": "valkey", "model": "triton"}
"""Link -> the server that it leads to."""


class Links:
    """A relay to every server, on an event loop of their own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._relays = {name: self._run(self._open()) for name in SERVERS}

    def address(self, link: str) -> str:
        return self._relays[link].address

    def aim(self, link: str, target: str) -> None:
        self._relays[link].aim(target)

    def disturb(self, link: str, how: str, delay_s: float = 0.03) -> Callable[[], None]:
        """`slow` by so much each way, `hang` or `sever`; call what it returns to mend the link."""
        relay = self._relays[link]
        if how == "slow":
            relay.delay_s = delay_s
        elif how == "hang":
            self._call(relay.hang)
        else:
            self._call(relay.sever)

        def mend() -> None:
            relay.delay_s = 0.0
            self._call(relay.resume)

        return mend

    def close(self) -> None:
        for relay in self._relays.values():
            self._run(relay.__aexit__())
        self._call(self._loop.stop)
        self._thread.join()

    async def _open(self) -> Relay:
        return await Relay().__aenter__()

    def _call(self, what: Callable[[], object]) -> None:
        self._loop.call_soon_threadsafe(what)

    def _run(self, what: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(30)


class _Kafka(Kafka):
    """With one more listener, which tells workers to come through the relay."""

    ready_s: ClassVar[float] = 300.0
    ports: ClassVar[Mapping[str, int]] = {**Kafka.ports, "workers": 9094}

    def __init__(self, directory: Path, links: Links) -> None:
        super().__init__(directory)
        self._links = links

    def launch(self, ports: Mapping[str, int]) -> Launch:
        found = super().launch(ports)
        workers = f"127.0.0.1:{ports['workers']}"
        self._links.aim("kafka", workers)
        # The later of two lines with one key counts.
        lines = dict(line.split("=", 1) for line in self._properties.read_text().splitlines())
        lines["listeners"] += f",WORKERS://{workers}"
        lines["advertised.listeners"] += f",WORKERS://{self._links.address('kafka')}"
        lines["listener.security.protocol.map"] += ",WORKERS:PLAINTEXT"
        self._properties.write_text("".join(f"{key}={value}\n" for key, value in lines.items()))
        return found


class _Stack(LocalStack):
    def __init__(self, repo: Path, links: Links) -> None:
        super().__init__(repo)
        self._links = links

    def _services(self) -> list[Service]:
        kafka = _Kafka(self._paths.data(Kafka.name), self._links)
        found = [kafka if isinstance(each, Kafka) else each for each in super()._services()]
        for each in found:
            each.ports = {role: port + OUT_OF_THE_WAY for role, port in type(each).ports.items()}
        return found

    def _is_elsewhere(self, service: Service) -> bool:
        return False  # whatever the environment says: these must be ours to kill

    def process(self, name: str) -> processes.ProcessId:
        found = self._state.process(name)
        assert found is not None
        return found

    def address(self, name: str) -> str:
        running = self._state.running(name)
        assert running is not None
        return f"127.0.0.1:{next(iter(running.ports.values()))}"

    def port(self, name: str, role: str) -> int:
        running = self._state.running(name)
        assert running is not None
        return running.ports[role]


class Servers:
    """Kafka, Valkey and Triton. A context manager; `directory` holds their data and logs."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.repo = directory
        self.links = Links()
        self._stack = _Stack(directory, self.links)

    def __enter__(self) -> Servers:
        self._stack.up()
        self.triton = self._stack.in_process_because is None
        self._aim()
        return self

    def _aim(self) -> None:
        self.links.aim("store", self._stack.address("valkey"))
        if self.triton:
            self.links.aim("model", f"127.0.0.1:{self._stack.port('triton', 'grpc')}")

    def __exit__(self, *_: object) -> None:
        self._stack.down()
        self.links.close()

    @property
    def settings(self) -> Settings:
        """For who watches: straight to the servers."""
        url = f"redis://{self._stack.address('valkey')}/0"
        return load_settings(self.repo).model_copy(
            update={
                "kafka_bootstrap_servers": self._stack.address("kafka"),
                "redis_url": SecretStr(url),
            }
        )

    @property
    def environment(self) -> dict[str, str]:
        """For workers: through the links."""
        found = {
            "STREAMSVC_KAFKA_BOOTSTRAP_SERVERS": self.links.address("kafka"),
            "STREAMSVC_REDIS_URL": f"redis://{self.links.address('store')}/0",
            "STREAMSVC_TRITON_GRPC_URL": self.links.address("model"),
            "STREAMSVC_MODEL_REPOSITORY": str(self.model_repository),
        }
        if not self.triton:
            found["STREAMSVC_MODEL_SERVER"] = "in-process"
        return found

    @property
    def model_repository(self) -> Path:
        return self.repo / load_settings(self.repo).model_repository

    def unique(self, prefix: str) -> str:
        return prefix  # nobody else uses these servers

    def stop(self, name: str, how: signal.Signals) -> None:
        """Kill a server, or ask it to end, and wait until it is gone."""
        process = self._stack.process(name)
        os.kill(process.pid, how)
        deadline = time.monotonic() + 30
        while processes.is_alive(process):
            assert time.monotonic() < deadline, f"{name} does not stop"
            time.sleep(0.01)

    def start(self, name: str) -> None:
        """Start it again with its data; returns when it answers."""
        self._stack.up([name])
        self._aim()

    def flush_store(self) -> None:
        client = connect(self.settings)
        client.flushall()
        client.close()
