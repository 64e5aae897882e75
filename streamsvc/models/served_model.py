"""The `model.py` that Triton's Python backend runs; copied into every version as it is.

It runs in the model server's environment, not in ours: NumPy, XGBoost and Triton's own module are
all it may import. One call of the booster serves every request that Triton has batched.
"""

from __future__ import annotations

import json
import os
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
import xgboost

__all__ = ["TritonPythonModel"]


class TritonPythonModel:
    """FP32 [n, features] with NaN for missing in, FP32 [n, 1] probability of the positive out."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load this version's booster. `args` is what Triton passes."""
        config = json.loads(args["model_config"])
        folder = os.path.join(args["model_repository"], args["model_version"])  # noqa: PTH118
        self.booster = xgboost.Booster(model_file=os.path.join(folder, "xgboost.ubj"))  # noqa: PTH118
        self.booster.set_param({"nthread": int(config["parameters"]["nthread"]["string_value"])})

    def execute(self, requests: list[Any]) -> list[Any]:
        """One response per request, in order."""
        inputs = [pb_utils.get_input_tensor_by_name(r, "input__0").as_numpy() for r in requests]
        matrix = inputs[0] if len(inputs) == 1 else np.concatenate(inputs)
        scores = self.booster.inplace_predict(matrix).reshape(-1, 1)
        responses = []
        start = 0
        for rows in inputs:
            part = scores[start : start + len(rows)]
            start += len(rows)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("output__0", part)]))
        return responses
