"""`config.pbtxt` of a model, from its card: for the Python backend, and for NVIDIA's container.

The Python backend runs anywhere the server does (the local stack's server has no other). NVIDIA's
container has backends of its own: FIL for trees, which is faster on large batches, and ONNX
Runtime. All take `input__0`, FP32 [n, features] with NaN for missing, and give `output__0`, FP32.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamsvc.models.artifact import ModelCard

__all__ = ["INPUT", "MAX_BATCH_SIZE", "OUTPUT", "native_config", "python_config"]

INPUT = "input__0"
OUTPUT = "output__0"
MAX_BATCH_SIZE = 32_768

# Servers from 24.10 on; XGBoost from 2.1 on.
FIL_TYPES = {
    "xgboost": "xgboost_ubj",
    "lightgbm": "lightgbm",
    "treelite": "treelite_checkpoint",
}


def python_config(model: str, versions: Sequence[int], *, nthread: int = 1) -> str:
    """For the Python backend. `nthread` is the threads of one call of the model.

    Tensors are of any width, because versions of one model may differ in their features; each
    knows its own, and warms itself up. No response cache: streamed vectors hardly ever repeat, and
    looking them up costs more. No queue policy: with a default timeout Triton gives a batch only
    to an instance that it has seen waiting, or looks again after half a second (decision 134).
    """
    return f"""\
name: "{model}"
backend: "python"
max_batch_size: {MAX_BATCH_SIZE}
{_tensors(-1, -1)}
instance_group [{{ kind: KIND_CPU count: 1 }}]
{_versions(versions)}
parameters [{{ key: "nthread" value: {{ string_value: "{nthread}" }} }}]
dynamic_batching {{ }}
"""


def native_config(card: ModelCard, versions: Sequence[int]) -> str:
    """For NVIDIA's container: the FIL backend for trees, ONNX Runtime for everything else.

    All versions must be like `card`, because these backends know one width and one type a model.
    """
    return f"""\
name: "{card.model}"
{_onnx_backend(card) if card.kind == "onnx" else _fil_backend(card)}
max_batch_size: {MAX_BATCH_SIZE}
{_tensors(len(card.features), card.outputs)}
instance_group [{{ kind: KIND_{card.instances.upper()} }}]
{_versions(versions)}
dynamic_batching {{ max_queue_delay_microseconds: 100 }}
{_warm_up(len(card.features))}
"""


def _fil_backend(card: ModelCard) -> str:
    # `is_classifier` and `threshold` are always given because the backend has no default for them.
    classifies = "false" if card.task == "regression" else "true"
    return f"""\
backend: "fil"
parameters [
  {{ key: "model_type" value: {{ string_value: "{FIL_TYPES[card.kind]}" }} }},
  {{ key: "is_classifier" value: {{ string_value: "{classifies}" }} }},
  {{ key: "predict_proba" value: {{ string_value: "{classifies}" }} }},
  {{ key: "threshold" value: {{ string_value: "{card.threshold}" }} }},
  {{ key: "layout" value: {{ string_value: "depth_first" }} }},
  {{ key: "chunk_size" value: {{ string_value: "4" }} }}
]"""


def _onnx_backend(card: ModelCard) -> str:
    backend = 'backend: "onnxruntime"\ndefault_model_filename: "model.onnx"'
    if not card.tensorrt:
        return backend
    return f"""{backend}
optimization {{ execution_accelerators {{ gpu_execution_accelerator [{{
  name: "tensorrt"
  parameters {{ key: "precision_mode" value: "FP32" }}
  parameters {{ key: "max_workspace_size_bytes" value: "1073741824" }}
}}] }} }}"""


def _tensors(n_features: int, outputs: int) -> str:
    return f"""\
input [{{ name: "{INPUT}" data_type: TYPE_FP32 dims: [ {n_features} ] }}]
output [{{ name: "{OUTPUT}" data_type: TYPE_FP32 dims: [ {outputs} ] }}]"""


def _versions(versions: Sequence[int]) -> str:
    listed = ", ".join(str(v) for v in sorted(versions))
    return f"version_policy {{ specific {{ versions: [ {listed} ] }} }}"


def _warm_up(n_features: int) -> str:
    return f"""\
model_warmup [{{
  name: "one row" batch_size: 1
  inputs {{ key: "{INPUT}" value: {{
    data_type: TYPE_FP32 dims: [ {n_features} ] zero_data: true
  }} }}
}}]"""
