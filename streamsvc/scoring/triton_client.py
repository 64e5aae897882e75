"""Triton over gRPC: float32 matrices in, scores out."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from streamsvc.errors import CheckFailedError, ConfigurationError, UnavailableError
from streamsvc.models.artifact import ModelCard
from streamsvc.models.triton_access import is_restricted, protocol_headers, tls_options
from streamsvc.models.triton_config import INPUT, OUTPUT
from streamsvc.scoring.model import F32

if TYPE_CHECKING:
    from streamsvc.settings import Settings

__all__ = ["MAX_ROWS", "TritonModel"]

_LOAD_TIMEOUT_S = 120.0
"""Loading starts a Python process in the server, which imports XGBoost."""
_CLOSE_TIMEOUT_S = 3.0
"""How long calls that nobody waits for any more may keep a connection open."""

MAX_ROWS = 8192
"""Rows of one request; a larger batch becomes several requests that are under way together."""

# `channel_args` replaces the client's own defaults, so its message sizes stand here again.
CHANNEL_ARGS = (
    ("grpc.max_send_message_length", 2**31 - 1),
    ("grpc.max_receive_message_length", 2**31 - 1),
    # A server that is gone without a word is noticed by the calls that wait for it. Pings at other
    # times, or more than gRPC's default of two without data, make Triton close the connection:
    # `too_many_pings`.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # gRPC takes this one instead, of which the default is a minute (grpc/grpc#39239).
    ("grpc.http2.ping_timeout_ms", 5_000),
    # A restarted server is found again within a second; the default backs off to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)
"""Public for the test that holds them against a server."""


class TritonModel:
    """One version of one model on one Triton server.

    At most `max_inflight` requests are under way at once; further ones wait their turn, and the
    wait counts against their timeout. One that is not waited for any longer is left to end, and
    keeps its place until then: a Triton from before March 2025 dies where a call is cancelled,
    or runs out of time, as its answer is ready (docs/decisions/128).
    """

    name = "triton"

    def __init__(
        self,
        address: str,
        card: ModelCard,
        *,
        max_inflight: int,
        headers: Mapping[str, str] | None = None,
        **tls: Any,
    ) -> None:
        """`headers` go with every call; Triton may restrict any of them."""
        from tritonclient.grpc import aio

        self._model = card.model
        self._version = str(card.version)
        self._features = len(card.features)
        self._outputs_per_row = card.outputs
        self._scores = card.scores
        self._address = address
        self._headers = dict(headers or {})
        self._slots = asyncio.Semaphore(max_inflight)
        self._under_way: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._client: Any = aio.InferenceServerClient(
            address, channel_args=list(CHANNEL_ARGS), **tls
        )
        self._outputs = [aio.InferRequestedOutput(OUTPUT)]

    @classmethod
    def connect(cls, settings: Settings, address: str, card: ModelCard) -> TritonModel:
        """A client of one server with the settings' TLS and bound on requests under way."""
        return cls(
            address,
            card,
            max_inflight=settings.max_inflight_batches,
            headers=protocol_headers(settings),
            **tls_options(settings),
        )

    async def predict(self, inputs: F32, timeout_s: float) -> F32:
        """Scores of a batch. Raises UnavailableError for any reason that there are none."""
        end = asyncio.get_running_loop().time() + timeout_s
        parts = [
            asyncio.ensure_future(self._infer(inputs[i : i + MAX_ROWS]))
            for i in range(0, len(inputs), MAX_ROWS)
        ]
        try:
            async with asyncio.timeout_at(end):
                found = await asyncio.gather(*parts)
        except TimeoutError as error:
            raise UnavailableError(
                f"Triton at {self._address} gave no answer within {timeout_s:.3f} s"
            ) from error
        finally:
            for part in parts:  # what is still to be sent, where one of them has failed
                part.cancel()
        return found[0] if len(found) == 1 else np.concatenate(found)

    async def recover(self, timeout_s: float) -> None:
        """Load the model if the server forgot it (explicit mode does at a restart), then ask it.

        Raises UnavailableError, ConfigurationError where Triton does not let us load it, and
        CheckFailedError where it cannot load this version.
        """
        from tritonclient.utils import InferenceServerException

        try:
            async with asyncio.timeout(timeout_s):
                ready = await self._client.is_model_ready(self._model, self._version, self._headers)
            if not ready:
                await self._load()
        except (InferenceServerException, TimeoutError) as error:
            if is_restricted(str(error)):
                raise ConfigurationError(
                    f"Triton at {self._address} has not loaded {self._model}, and does not let us: "
                    f"{error}. Set triton_restricted_key to what stands in its "
                    "--grpc-restricted-protocol."
                ) from error
            raise UnavailableError(f"Triton at {self._address}: {error}") from error
        await self.predict(np.zeros((1, self._features), np.float32), timeout_s)

    async def _load(self) -> None:
        from tritonclient.utils import InferenceServerException

        version = f"{self._model} version {self._version}"
        try:
            async with asyncio.timeout(_LOAD_TIMEOUT_S):
                await self._client.load_model(self._model, self._headers)
        except InferenceServerException as error:
            status = str(error.status() or "")
            if is_restricted(str(error)) or status.endswith(("UNAVAILABLE", "DEADLINE_EXCEEDED")):
                raise
            raise CheckFailedError(
                f"Triton at {self._address} cannot load {version}: {error.message()}"
            ) from error
        if not await self._client.is_model_ready(self._model, self._version, self._headers):
            raise CheckFailedError(
                f"Triton at {self._address} has loaded {self._model}, but not version "
                f"{self._version}: its own model repository has no such version, or its "
                "config.pbtxt does not serve it."
            )

    async def close(self) -> None:
        """Close the channel. Calls under way have a few seconds to end, and fail then."""
        self._closing = True
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=_CLOSE_TIMEOUT_S)
        await self._client.close()

    async def _infer(self, inputs: F32) -> F32:
        from tritonclient.utils import InferenceServerException

        await self._slots.acquire()
        if self._closing:
            self._slots.release()
            raise UnavailableError(f"The connection to Triton at {self._address} is being closed")
        call = asyncio.create_task(self._call(inputs))
        self._under_way.add(call)
        call.add_done_callback(self._ended)
        try:
            result = await asyncio.shield(call)
        except InferenceServerException as error:
            raise UnavailableError(
                f"Triton at {self._address}, model {self._model} version {self._version}: "
                f"{error.message()}"
            ) from error
        scores = result.as_numpy(OUTPUT)
        # A last dimension of 1 may come squeezed; nothing at all is how a server whose numpy does
        # not fit its backend answers.
        if scores is None or scores.size not in (len(inputs), self._outputs_per_row * len(inputs)):
            raise UnavailableError(
                f"Triton at {self._address}, model {self._model}: {len(inputs)} rows were sent, "
                f"the answer has the shape {None if scores is None else scores.shape}"
            )
        # A binary model may answer with the chance of either class: the last is the positive one.
        return np.asarray(scores, np.float32).reshape(len(inputs), -1)[:, -self._scores :]

    async def _call(self, inputs: F32) -> Any:
        from tritonclient.grpc import aio

        tensor = aio.InferInput(INPUT, list(inputs.shape), "FP32")
        tensor.set_data_from_numpy(np.ascontiguousarray(inputs))
        return await self._client.infer(
            self._model,
            [tensor],
            model_version=self._version,
            outputs=self._outputs,
            headers=self._headers or None,  # and no `client_timeout`, which would cancel the call
        )

    def _ended(self, call: asyncio.Task[Any]) -> None:
        self._under_way.discard(call)
        self._slots.release()
        if not call.cancelled():
            call.exception()  # seen, also where nobody waited for it
