"""Explicit model control of a Triton server: load, unload, readiness, golden vectors, counts.

For the command line and tests; the scoring worker has its own asynchronous client. Explicit mode
forgets what was loaded when the server restarts, so whoever needs a model says `load` again.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

import numpy as np

from streamsvc.errors import StreamsvcError, UnavailableError
from streamsvc.models.artifact import F32
from streamsvc.models.triton_access import (
    check_link,
    is_restricted,
    protocol_headers,
    restricted,
    tls_options,
)
from streamsvc.models.triton_config import INPUT, OUTPUT
from streamsvc.settings import Settings

__all__ = ["TritonControl", "TritonRefusedError"]

T = TypeVar("T")

CALL_TIMEOUT_S = 10.0
# Loading starts a Python process that imports XGBoost.
LOAD_TIMEOUT_S = 120.0


class TritonRefusedError(StreamsvcError):
    """Triton is there and said no; the message is Triton's own."""


class TritonControl:
    """A blocking client of the first server, used as a context manager. Every call raises
    UnavailableError if it cannot be reached, ConfigurationError if it does not let us in,
    TritonRefusedError if it refuses.
    """

    def __init__(self, settings: Settings) -> None:
        import tritonclient.grpc as triton

        self._triton = triton
        self._settings = settings
        self._headers = protocol_headers(settings)
        self.url = settings.triton_addresses[0]
        self._client: Any = triton.InferenceServerClient(self.url, **tls_options(settings))

    def __enter__(self) -> TritonControl:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Disconnect, where this is no context manager."""
        self._client.close()

    def is_live(self) -> bool:
        """Whether a server answers at all."""
        try:
            return bool(
                self._call(
                    lambda: self._client.is_server_live(
                        self._headers, client_timeout=CALL_TIMEOUT_S
                    )
                )
            )
        except UnavailableError:
            return False

    def load(self, model: str) -> None:
        """Load or reload the versions that `config.pbtxt` serves; returns when they are ready."""
        self._call(
            lambda: self._client.load_model(model, self._headers, client_timeout=LOAD_TIMEOUT_S)
        )

    def unload(self, model: str) -> None:
        """Unload every version. Requests in flight are answered first."""
        self._call(
            lambda: self._client.unload_model(model, self._headers, client_timeout=LOAD_TIMEOUT_S)
        )

    def is_ready(self, model: str, version: int) -> bool:
        """Whether this version answers requests now."""
        return bool(
            self._call(
                lambda: self._client.is_model_ready(
                    model, str(version), self._headers, client_timeout=CALL_TIMEOUT_S
                )
            )
        )

    def ready_versions(self, model: str) -> list[int]:
        """Versions that the server has loaded and answers for, ascending."""
        index = self._call(
            lambda: self._client.get_model_repository_index(
                self._headers, client_timeout=CALL_TIMEOUT_S
            )
        )
        return sorted(
            int(item.version)
            for item in index.models
            if item.name == model and item.version and item.state == "READY"
        )

    def predictor(self, model: str, version: int) -> Callable[[F32], F32]:
        """A function from a float32 matrix (n, features) that asks the server: float32 (n,), or
        (n, k) of a model that answers with k numbers.
        """

        def predict(matrix: F32) -> F32:
            tensor = self._triton.InferInput(INPUT, list(matrix.shape), "FP32")
            tensor.set_data_from_numpy(np.ascontiguousarray(matrix))
            answer = self._call(
                lambda: self._client.infer(
                    model,
                    [tensor],
                    model_version=str(version),
                    headers=self._headers,
                    client_timeout=CALL_TIMEOUT_S,
                )
            )
            scores: F32 = answer.as_numpy(OUTPUT).reshape(len(matrix), -1)
            return scores[:, 0] if scores.shape[1] == 1 else scores

        return predict

    def inference_count(self, model: str) -> int:
        """Rows that all loaded versions have answered since they were loaded
        (`nv_inference_count`).
        """
        answer = self._call(
            lambda: self._client.get_inference_statistics(
                model, headers=self._headers, client_timeout=CALL_TIMEOUT_S
            )
        )
        return sum(int(m.inference_count) for m in answer.model_stats)

    def _call(self, call: Callable[[], T]) -> T:
        error_type = self._triton.InferenceServerException
        try:
            return call()
        except error_type as error:
            status = str(error.status() or "")
            if is_restricted(error.message()):
                raise restricted(self._settings, error.message()) from error
            if status.endswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")) and not _refused(error):
                check_link(self._settings)
                raise UnavailableError(
                    f"Triton does not answer at {self.url} ({error.message()}): start it with "
                    "`streamsvc up`, or set STREAMSVC_TRITON_GRPC_URL"
                ) from error
            raise TritonRefusedError(f"Triton at {self.url}: {error.message()}") from error


def _refused(error: Any) -> bool:
    # A model that is not loaded is reported with the status of a server that is not there.
    return "Request for unknown model" in error.message()
