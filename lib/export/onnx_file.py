"""A trained network as an ONNX file: operators and weights, written with the onnx package.

Input: "pixels" (N, 1, 28, 28), float32 from 0 to 1, white digits on black; the file normalizes them. Output: "logits"
(N, 10). Any ONNX runtime can use the file without this project's code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from lib.design.layers import CLASSES, INPUT_SHAPE, MEAN, STD, Architecture
from lib.design.notation import ONNX_KEY, notation
from lib.design.operation_specs import SPECS, OnnxNode
from lib.design.operations import IMAGE, operations

if TYPE_CHECKING:
    from torch import Tensor

# The format of files with an operator set up to the number. A file gets the oldest one that its network can do with, so
# that old runtimes can read it.
IR_VERSIONS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10}


def onnx_bytes(architecture: Architecture, weights: Mapping[str, Tensor]) -> bytes:
    """Content of the file; `weights` is the state_dict of `lib.nn.network.build(architecture)`.

    Raises KeyError if a weight is missing.
    """
    constants = {"mean": np.float32(MEAN).reshape(1), "std": np.float32(STD).reshape(1)}
    nodes = [
        helper.make_node("Sub", ["pixels", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "std"], ["normalized"]),
    ]
    steps, text = operations(architecture), notation(architecture)
    outputs = {IMAGE: "normalized"}
    for index, step in enumerate(steps):
        outputs[index] = "logits" if index == len(steps) - 1 else f"{index}.{step.kind}"
        names = {name: f"{index}.{name}" for name in SPECS[step.kind].tensors(step)}
        constants |= {name: weights[name].cpu().numpy() for name in names.values()}
        fixed = SPECS[step.kind].constants(step)
        constants |= {f"{index}.{name}": _constant(value) for name, value in fixed.items()}
        names |= {name: f"{index}.{name}" for name in fixed}
        nodes += _nodes(SPECS[step.kind].onnx(step), [outputs[source] for source in step.inputs], names, outputs[index])
    opset = max(SPECS[step.kind].opset for step in steps)
    graph = helper.make_graph(
        nodes,
        "receptive",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", *INPUT_SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        doc_string=f"{text}: pixels from 0 to 1, white digits on black, to logits of ten digits.",
    )
    model = helper.make_model(
        graph, producer_name="Receptive", opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSIONS[opset]
    )
    # Operators do not tell dropout of channels from that of values, nor a ghost batch norm from a batch norm.
    helper.set_model_props(model, {ONNX_KEY: text})
    # Appended to the model one by one, because make_graph and make_model would copy them all.
    for name, value in constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
    content = bytes(model.SerializeToString())
    del model
    onnx.checker.check_model(content, full_check=True)
    return content


def _constant(value: float | list[float] | list[int]) -> np.ndarray:
    array = np.asarray(value)
    return array if array.dtype == np.int64 else array.astype(np.float32)


def _nodes(chain: Sequence[OnnxNode], inputs: list[str], names: Mapping[str, str], output: str) -> list[NodeProto]:
    """The nodes of one operation; `names` are those of its tensors in the file."""
    found: list[NodeProto] = []
    known = {"x": inputs[0], **names}
    for index, node in enumerate(chain):
        if node.inputs is None:
            taken = [known[""]] if index else [*inputs, *names.values()]
        else:
            taken = [known[name] for name in node.inputs]
        result = output if index == len(chain) - 1 else f"{output}.{index}"
        attributes: dict[str, Any] = dict(node.attributes)
        found.append(helper.make_node(node.operator, taken, [result], name=result, **attributes))
        known[""] = result
    return found
