"""A Triton as it should be run: TLS, and the control of its models only for who has the key."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from support.certificates import Authority

from streamsvc.errors import UnavailableError
from streamsvc.local import ports
from streamsvc.local.processes import identify
from streamsvc.local.report import Report
from streamsvc.local.triton import Triton
from streamsvc.settings import Settings

KEY = "admin-key=only-for-operators"
RESTRICTED = "model-repository,model-config,shared-memory,statistics,trace,logging"
PATIENCE_S = 120


class SecureTriton:
    """A context manager; `models` is its repository."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.models = directory / "models"
        self._log = directory / "triton.log"
        self._authority = authority
        self._service = Triton(directory, self.models)
        self._process: subprocess.Popen[bytes] | None = None
        self.ports: dict[str, int] = {}

    def __enter__(self) -> SecureTriton:
        self._service.prepare(Report())
        for role in Triton.ports:
            self.ports[role] = ports.choose([24_000], self.ports.values())
        launch = self._service.launch(self.ports)
        certificate, key = self._authority.issue("triton")
        flags = {
            "grpc-use-ssl": "true",
            "grpc-server-cert": certificate,
            "grpc-server-key": key,
            "grpc-restricted-protocol": f"{RESTRICTED}:{KEY}",
        }
        argv = [*launch.argv, *(f"--{name}={value}" for name, value in flags.items())]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(argv, env=launch.environment, stdout=log, stderr=log)
        deadline = time.monotonic() + PATIENCE_S
        process = identify(self._process.pid)
        while process is None or not self._service.answers(self.ports, process):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.__exit__()
                raise UnavailableError(f"no secure Triton: {self._log.read_text()[-3000:]}")
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(20)
        self._service.clean_up()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.ports['grpc']}"

    def settings(self, **changed: object) -> Settings:
        values: dict[str, object] = {
            "triton_grpc_url": self.address,
            "triton_ssl_ca": self._authority.certificate,
        }
        return Settings(**{**values, **changed})
