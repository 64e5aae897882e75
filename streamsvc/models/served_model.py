"""The `model.py` that Triton's Python backend runs; copied into every version as it is.

It runs in the model server's environment, not in ours: NumPy, Triton's own module and
`runtimes.py`, which is copied beside it, are all it may import. One call of the runtime serves
every request that Triton has batched.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """FP32 [n, features] with NaN for missing in, FP32 [n, 1] or [n, classes] scores out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load this version and answer its golden vectors once. `args` is what Triton passes.

        Whatever this raises is Triton's reason not to serve the version.
        """
        folder = os.path.join(args["model_repository"], args["model_version"])  # noqa: PTH118
        sys.path.insert(0, folder)
        from runtimes import open_model  # type: ignore[import-not-found]

        with open(os.path.join(folder, "model.json"), "rb") as file:  # noqa: PTH118, PTH123
            card = json.load(file)
        for name, published in card["files"].items():
            with open(os.path.join(folder, name), "rb") as file:  # noqa: PTH118, PTH123
                if hashlib.sha256(file.read()).hexdigest() != published:
                    raise RuntimeError(f"{folder}/{name} is not the file that was published")
        config = json.loads(args["model_config"])
        nthread = int(config["parameters"]["nthread"]["string_value"])
        self.features = len(card["features"])
        self.predict = open_model(folder, card["kind"], card["task"], nthread)
        golden = [[np.nan if x is None else x for x in row] for row in card["golden"]["inputs"]]
        self.predict(np.array(golden or [[0.0] * self.features], np.float32))

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order."""
        inputs = [pb_utils.get_input_tensor_by_name(r, "input__0").as_numpy() for r in requests]
        fitting = [rows for rows in inputs if rows.shape[1] == self.features]
        if not fitting:
            return [self._refuse(rows) for rows in inputs]
        matrix = fitting[0] if len(fitting) == 1 else np.concatenate(fitting)
        scores = self.predict(matrix).reshape(len(matrix), -1)
        responses = []
        start = 0
        for rows in inputs:
            if rows.shape[1] != self.features:
                responses.append(self._refuse(rows))
                continue
            part = scores[start : start + len(rows)]
            start += len(rows)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("output__0", part)]))
        return responses

    def _refuse(self, rows: Any) -> Any:
        told = f"the model takes {self.features} features, not {rows.shape[1]}"
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(told))
