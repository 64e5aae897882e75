"""What a model server looks like to scoring, whoever runs the model."""

from __future__ import annotations

from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["F32", "ModelServer"]

F32: TypeAlias = NDArray[np.float32]


class ModelServer(Protocol):
    """One model version, answering batches.

    Calls may overlap. `name` is what a prediction says when this server answered in another's
    stead.
    """

    @property
    def name(self) -> str:
        """Short, stable, for records and metrics."""
        ...

    async def predict(self, inputs: F32, timeout_s: float) -> F32:
        """Scores of n vectors: (n, 1), or (n, classes). `inputs` is (n, features), missing is NaN.

        Raises UnavailableError when there is no usable answer within `timeout_s` seconds.
        """
        ...

    async def recover(self, timeout_s: float) -> None:
        """Make the server able to answer again, and prove it with one call.

        Raises UnavailableError while it cannot.
        """
        ...

    async def close(self) -> None:
        """Let go of connections and threads."""
        ...
