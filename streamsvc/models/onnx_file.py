"""An ONNX graph with the tensors that every model here has: `input__0` in, `output__0` out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamsvc.errors import ConfigurationError

__all__ = ["read_onnx"]

INPUT, OUTPUT = "input__0", "output__0"


def read_onnx(path: Path) -> tuple[bytes, int, int]:
    """The graph with our names, the number of its features, and of its answers to a row.

    It must have one input, float32 [rows, features], and one float32 output. Raises
    ConfigurationError for any other.
    """
    import onnx

    model = onnx.load(path)  # with the weights that lie beside it
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    inputs = [item for item in graph.input if item.name not in weights]
    if len(inputs) != 1 or not _is_float(inputs[0]) or len(_shape(inputs[0])) != 2:
        raise ConfigurationError(
            f"{path} has the inputs {_told(inputs)}: one of float32 with the shape "
            "[rows, features] is needed"
        )
    n_features = _shape(inputs[0])[1]
    if n_features <= 0:
        raise ConfigurationError(f"{path} does not say how many columns its input has")
    if _shape(inputs[0])[0] > 0:
        raise ConfigurationError(
            f"{path} takes {_shape(inputs[0])[0]} rows at a time: export it with a dynamic first "
            "dimension (dynamic_axes, or dynamic_shapes, of torch.onnx.export)"
        )
    outputs = [item for item in graph.output if _is_float(item)]
    if len(outputs) != 1:
        raise ConfigurationError(
            f"{path} has the outputs {_told(graph.output)}: exactly one of float32 is needed (for "
            "skl2onnx: options={'zipmap': False})"
        )
    answers = _answers(model, inputs[0].name, outputs[0].name, n_features, path)
    shape = onnx.helper.make_tensor("streamsvc.shape", onnx.TensorProto.INT64, [2], [-1, answers])
    graph.initializer.append(shape)
    graph.node.insert(0, onnx.helper.make_node("Identity", [INPUT], [inputs[0].name]))
    graph.node.append(onnx.helper.make_node("Reshape", [outputs[0].name, shape.name], [OUTPUT]))
    value = onnx.helper.make_tensor_value_info
    del graph.input[:], graph.output[:]
    graph.input.append(value(INPUT, onnx.TensorProto.FLOAT, ["rows", n_features]))
    graph.output.append(value(OUTPUT, onnx.TensorProto.FLOAT, ["rows", answers]))
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString()), n_features, answers


def _answers(model: Any, given: str, asked: str, n_features: int, path: Path) -> int:
    import numpy as np
    import onnxruntime

    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run([asked], {given: np.zeros((3, n_features), np.float32)})
    if found.shape[0] != 3 or found.ndim > 2:
        raise ConfigurationError(
            f"{path} answers three rows with the shape {list(found.shape)}: [rows] or "
            "[rows, answers] is needed"
        )
    return 1 if found.ndim == 1 else int(found.shape[1])


def _is_float(item: Any) -> bool:
    return bool(item.type.tensor_type.elem_type == 1)  # TensorProto.FLOAT


def _shape(item: Any) -> list[int]:
    """Dimensions; 0 for one that varies."""
    return [int(dim.dim_value) for dim in item.type.tensor_type.shape.dim]


def _told(items: Any) -> str:
    return ", ".join(f"{item.name} {_shape(item)}" for item in items) or "none"
