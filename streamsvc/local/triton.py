"""NVIDIA Triton with explicit model control, the local response cache and metrics.

Models run in the Python backend, the only one in the wheel. Every model in the repository is loaded
at the start: explicit control alone would leave a restarted server without models.
"""

from __future__ import annotations

import hashlib
import http.client
import os
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from streamsvc.local.ports import HOST
from streamsvc.local.processes import ProcessId, is_alive
from streamsvc.local.report import Report
from streamsvc.local.service import Launch, Service
from streamsvc.local.triton_env import TritonEnvironment, ready_environment

__all__ = ["Triton"]

CACHE_BYTES = 64 * 1024 * 1024

_SHARED_MEMORY = Path("/dev/shm")


class Triton(Service):
    """The model server; models are read from `model_repository`."""

    name: ClassVar[str] = "triton"
    title: ClassVar[str] = "NVIDIA Triton"
    setting: ClassVar[str] = "triton_grpc_url"
    ports: ClassVar[Mapping[str, int]] = {"grpc": 8001, "http": 8000, "metrics": 8002}
    ready_s: ClassVar[float] = 60.0
    stop_s: ClassVar[float] = 10.0

    def __init__(self, directory: Path, model_repository: Path) -> None:
        self._models = model_repository
        # Told apart from other Tritons of this machine, so that only our remains are removed.
        name = hashlib.sha256(str(directory).encode()).hexdigest()[:12]
        self._memory_prefix = f"streamsvc-{name}-"
        self._environment: TritonEnvironment | None = None

    def prepare(self, report: Report) -> None:
        """Install the server if need be."""
        self._environment = ready_environment(report)

    def launch(self, ports: Mapping[str, int]) -> Launch:
        """The command; the model repository is made if it is missing."""
        installed = self._environment
        assert installed is not None, "prepare() comes first"
        self._models.mkdir(parents=True, exist_ok=True)
        flags = {
            "model-repository": self._models,
            "backend-directory": installed.backends,
            "cache-directory": installed.server / "caches",
            "cache-config": f"local,size={CACHE_BYTES}",
            "model-control-mode": "explicit",
            "load-model": "*",
            # A model that does not load is that model's trouble; the others are served.
            "exit-on-error": "false",
            "strict-readiness": "false",
            # Our configurations are complete; completing them starts every model twice.
            "disable-auto-complete-config": "",
            "grpc-address": HOST,
            "grpc-port": ports["grpc"],
            "http-address": HOST,
            "http-port": ports["http"],
            "http-thread-count": 2,
            "metrics-address": HOST,
            "metrics-port": ports["metrics"],
            "allow-gpu-metrics": "false",
            "allow-cpu-metrics": "false",
            "exit-timeout-secs": 5,
            "backend-config": f"python,shm-region-prefix-name={self._memory_prefix}",
        }
        argv = [str(installed.server / "bin" / "tritonserver")]
        argv += [f"--{key}={value}" if value != "" else f"--{key}" for key, value in flags.items()]
        libraries = f"{installed.site_packages}/nvidia_pytriton.libs:{installed.python_libraries}"
        dropped = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        environment = {key: value for key, value in os.environ.items() if key not in dropped}
        environment["LD_LIBRARY_PATH"] = libraries
        # The embedded interpreter takes its packages from the first `python3` on PATH.
        environment["PATH"] = f"{installed.venv}/bin:{environment.get('PATH', os.defpath)}"
        return Launch(tuple(argv), environment)

    def answers(self, ports: Mapping[str, int], process: ProcessId) -> bool:
        """The server says that it is ready, and gRPC, which binds first, is therefore open."""
        connection = http.client.HTTPConnection(HOST, ports["http"], timeout=1.0)
        try:
            connection.request("GET", "/v2/health/ready")
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        return status == http.client.OK and is_alive(process)

    def endpoints(self, ports: Mapping[str, int]) -> dict[str, str]:
        """gRPC for models, HTTP for readiness."""
        return {
            "triton_grpc_url": f"{HOST}:{ports['grpc']}",
            "triton_http_url": f"{HOST}:{ports['http']}",
        }

    def clean_up(self) -> None:
        """Shared memory of a killed server: it lies outside every directory of ours."""
        for rest in _SHARED_MEMORY.glob(f"{self._memory_prefix}*"):
            rest.unlink(missing_ok=True)
