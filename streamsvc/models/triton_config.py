"""`config.pbtxt` of a model, for the two backends that can serve an XGBoost booster in Triton.

The Python backend runs anywhere the server does (the local stack's server has no other); the FIL
backend comes with NVIDIA's container and is faster on large batches. Both take `input__0`, FP32
[n, features] with NaN for missing, and give `output__0`, FP32 [n, 1].
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["INPUT", "MAX_BATCH_SIZE", "OUTPUT", "fil_config", "python_config"]

INPUT = "input__0"
OUTPUT = "output__0"
MAX_BATCH_SIZE = 32_768


def python_config(model: str, n_features: int, versions: Sequence[int], *, nthread: int = 1) -> str:
    """For the Python backend. `nthread` is the threads of one call of the booster.

    No response cache: streamed vectors hardly ever repeat, and looking them up costs more.
    """
    return f"""\
name: "{model}"
backend: "python"
max_batch_size: {MAX_BATCH_SIZE}
{_tensors(n_features)}
instance_group [{{ kind: KIND_CPU count: 1 }}]
{_versions(versions)}
parameters [{{ key: "nthread" value: {{ string_value: "{nthread}" }} }}]
dynamic_batching {{ }}
{_warmup(n_features)}
"""


def fil_config(model: str, n_features: int, versions: Sequence[int], threshold: float) -> str:
    """For the FIL backend of NVIDIA's container, server 24.10 or later with XGBoost 2.1 or later.

    `is_classifier` and `threshold` are always given because the backend has no default for them.
    """
    return f"""\
name: "{model}"
backend: "fil"
max_batch_size: {MAX_BATCH_SIZE}
{_tensors(n_features)}
instance_group [{{ kind: KIND_AUTO }}]
{_versions(versions)}
parameters [
  {{ key: "model_type" value: {{ string_value: "xgboost_ubj" }} }},
  {{ key: "is_classifier" value: {{ string_value: "true" }} }},
  {{ key: "predict_proba" value: {{ string_value: "true" }} }},
  {{ key: "threshold" value: {{ string_value: "{threshold}" }} }},
  {{ key: "layout" value: {{ string_value: "depth_first" }} }},
  {{ key: "chunk_size" value: {{ string_value: "4" }} }}
]
dynamic_batching {{ max_queue_delay_microseconds: 100 }}
{_warmup(n_features)}
"""


def _tensors(n_features: int) -> str:
    return f"""\
input [{{ name: "{INPUT}" data_type: TYPE_FP32 dims: [ {n_features} ] }}]
output [{{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ 1 ] }}]"""


def _versions(versions: Sequence[int]) -> str:
    listed = ", ".join(str(v) for v in sorted(versions))
    return f"version_policy {{ specific {{ versions: [ {listed} ] }} }}"


def _warmup(n_features: int) -> str:
    return f"""\
model_warmup [{{
  name: "one row" batch_size: 1
  inputs {{ key: "{INPUT}" value: {{
    data_type: TYPE_FP32 dims: [ {n_features} ] zero_data: true
  }} }}
}}]"""
