"""A trained network as an ONNX file: the network's operators and its weights, written with the onnx package.

The file takes pixels as they are, 0 to 1, (N, 1, 28, 28), white digits on black, and normalises them itself; its output
is the logits (N, 10). Every runtime of ONNX reads it; none of this project's code is needed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from lib.architecture import CLASSES, INPUT_SHAPE, Architecture, Operation, notation, operations
from lib.dataset import MEAN, STD

if TYPE_CHECKING:
    from torch import Tensor

# Read by every runtime of the last years, and it holds all that is used here.
OPSET = 17
IR_VERSION = 8


def onnx_bytes(architecture: Architecture, weights: Mapping[str, Tensor]) -> bytes:
    """The file's content; `weights` is the state_dict of `lib.network.build(architecture)`.

    Raises KeyError where a weight is missing.
    """
    constants = {"mean": np.float32(MEAN).reshape(1), "deviation": np.float32(STD).reshape(1)}
    nodes = [
        helper.make_node("Sub", ["pixels", "mean"], ["centred"]),
        helper.make_node("Div", ["centred", "deviation"], ["normalised"]),
    ]
    current = "normalised"
    steps = list(operations(architecture))
    for index, step in enumerate(steps):
        output = "logits" if index == len(steps) - 1 else f"{index}.{step.kind}"
        names = [f"{index}.{name}" for name in _WEIGHTS.get(step.kind, ())]
        constants |= {name: weights[name].cpu().numpy() for name in names}
        operator, attributes = _operator(step)
        nodes.append(helper.make_node(operator, [current, *names], [output], name=output, **attributes))
        current = output
    graph = helper.make_graph(
        nodes,
        "receptive",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *INPUT_SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        doc_string=f"{notation(architecture)}: pixels 0 to 1, white digits on black, to the logits of the ten digits.",
    )
    model = helper.make_model(
        graph, producer_name="Receptive", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    # Added in place, one by one: a graph that is given them, and a model that is given a graph, copy them all.
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    content = bytes(model.SerializeToString())
    del model
    onnx.checker.check_model(content, full_check=True)
    return content


_WEIGHTS = {
    "Conv2d": ("weight", "bias"),
    "BatchNorm2d": ("weight", "bias", "running_mean", "running_var"),
    "Linear": ("weight", "bias"),
}


def _operator(step: Operation) -> tuple[str, dict[str, Any]]:
    """torch's module as ONNX names it, with its attributes. A dropout does nothing once trained."""
    size, stride = [step.kernel_size] * 2, [step.stride] * 2
    match step.kind:
        case "Conv2d":
            return "Conv", {
                "kernel_shape": size,
                "strides": stride,
                "pads": [step.padding] * 4,
                "dilations": [step.dilation] * 2,
            }
        case "ReLU":
            return "Relu", {}
        case "BatchNorm2d":
            return "BatchNormalization", {}
        case "MaxPool2d":
            return "MaxPool", {"kernel_shape": size, "strides": stride}
        case "AvgPool2d":
            return "AveragePool", {"kernel_shape": size, "strides": stride}
        case "AdaptiveAvgPool2d":
            return "GlobalAveragePool", {}
        case "Dropout":
            return "Identity", {}
        case "Flatten":
            return "Flatten", {}
        case "Linear":
            return "Gemm", {"transB": 1}
