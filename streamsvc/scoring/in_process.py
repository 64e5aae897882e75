"""The model inside the worker: the fallback when Triton is away, the server where it cannot run."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from streamsvc.errors import UnavailableError
from streamsvc.models.local_model import LocalModel
from streamsvc.scoring.model import F32

__all__ = ["InProcessModel"]


class InProcessModel:
    """A model on a thread of its own, so that the event loop goes on meanwhile."""

    name = "in-process"

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="in-process-model")

    async def predict(self, inputs: F32, timeout_s: float) -> F32:
        """Scores of a batch; a batch that takes longer than `timeout_s` is given up."""
        work = asyncio.get_running_loop().run_in_executor(self._thread, self._model.predict, inputs)
        try:
            found = await asyncio.wait_for(work, timeout_s)
        except TimeoutError as error:
            raise UnavailableError(
                f"the in-process model needed more than {timeout_s:.3f} s for {len(inputs)} rows"
            ) from error
        return found.reshape(len(inputs), -1)

    async def recover(self, timeout_s: float) -> None:
        """Nothing to repair: the model lies in this process's memory."""

    async def close(self) -> None:
        """End the thread once it is idle."""
        self._thread.shutdown(wait=False)
