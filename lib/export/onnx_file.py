"""A trained network as an ONNX file: operators and weights, written with the onnx package.

Input: "pixels" (N, 1, 28, 28), float32 from 0 to 1, white digits on black; the file normalizes them. Output: "logits"
(N, 10). Any ONNX runtime can use the file without this project's code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lib.data.dataset import MEAN, STD
from lib.design.layers import CLASSES, INPUT_SHAPE, Architecture
from lib.design.notation import notation
from lib.design.operation_specs import SPECS, OnnxNode
from lib.design.operations import operations

if TYPE_CHECKING:
    from torch import Tensor

# This opset has all operators that are used here; runtimes have supported it since 2022.
OPSET = 17
IR_VERSION = 8


def onnx_bytes(architecture: Architecture, weights: Mapping[str, Tensor]) -> bytes:
    """Content of the file; `weights` is the state_dict of `lib.nn.network.build(architecture)`.

    Raises KeyError if a weight is missing.
    """
    constants = {"mean": np.float32(MEAN).reshape(1), "std": np.float32(STD).reshape(1)}
    nodes = [
        helper.make_node("Sub", ["pixels", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "std"], ["normalized"]),
    ]
    current = "normalized"
    steps = list(operations(architecture))
    for index, step in enumerate(steps):
        output = "logits" if index == len(steps) - 1 else f"{index}.{step.kind}"
        spec = SPECS[step.kind]
        names = [f"{index}.{name}" for name in spec.tensors]
        constants |= {name: weights[name].cpu().numpy() for name in names}
        nodes.append(_node(spec.onnx(step), [current, *names], output))
        current = output
    graph = helper.make_graph(
        nodes,
        "receptive",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *INPUT_SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        doc_string=f"{notation(architecture)}: pixels from 0 to 1, white digits on black, to logits of ten digits.",
    )
    model = helper.make_model(
        graph, producer_name="Receptive", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    # Appended to the model one by one, because make_graph and make_model would copy them all.
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    content = bytes(model.SerializeToString())
    del model
    onnx.checker.check_model(content, full_check=True)
    return content


def _node(node: OnnxNode, inputs: list[str], output: str) -> NodeProto:
    attributes: dict[str, Any] = dict(node.attributes)
    return helper.make_node(node.operator, inputs, [output], name=output, **attributes)
