"""The network in an ONNX file: its operators as modules of torch.

Files come from torch.onnx.export, from tf2onnx, and from this project's own export. Nothing of the onnx package is used
but its format: no runtime, no checker, and no shape inference.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from lib.design.layers import ArchitectureError
from lib.design.notation import ONNX_KEY, parse
from lib.design.operations import operations
from lib.importing import onnx_arithmetic, onnx_layers, onnx_shapes, onnx_windows
from lib.importing.architecture_graph import graph_nodes
from lib.importing.module_graph import ImportSourceError, ModuleGraph, ModuleNode
from lib.importing.onnx_constants import short_number
from lib.importing.onnx_content import model_without_weights
from lib.importing.onnx_graph import GraphReader, Read, shown

if TYPE_CHECKING:
    from onnx import ModelProto

_OPERATORS: Mapping[str, Read] = {
    **dict.fromkeys(onnx_layers.ACTIVATIONS, onnx_layers.activation),
    **dict.fromkeys(("Sub", "Div", "Mul", "Add", "Erf", "Pow", "Min", "Max"), onnx_arithmetic.arithmetic),
    "Sum": onnx_arithmetic.addition,
    "Conv": onnx_layers.convolution,
    "MaxPool": onnx_windows.pool,
    "AveragePool": onnx_windows.pool,
    "Pad": onnx_windows.pad,
    "GlobalAveragePool": onnx_layers.global_pool,
    "GlobalMaxPool": onnx_layers.global_pool,
    "ReduceMean": onnx_layers.reduce,
    "ReduceMax": onnx_layers.reduce,
    "BatchNormalization": onnx_layers.batch_norm,
    "GroupNormalization": onnx_layers.group_norm,
    "LayerNormalization": onnx_layers.layer_norm,
    "InstanceNormalization": onnx_layers.instance_norm,
    "PRelu": onnx_layers.prelu,
    "Clip": onnx_layers.clip,
    "Dropout": onnx_layers.dropout,
    "Identity": onnx_layers.identity,
    "Flatten": onnx_shapes.flatten,
    "Reshape": onnx_shapes.reshape,
    "Squeeze": onnx_shapes.squeeze,
    "Unsqueeze": onnx_shapes.unsqueeze,
    "Transpose": onnx_shapes.transpose,
    "Gemm": onnx_layers.linear,
    "MatMul": onnx_layers.linear,
    "Concat": onnx_layers.concat,
    "Constant": onnx_layers.literal,
    "Shape": onnx_shapes.shape,
    "Gather": onnx_shapes.gather,
    "Slice": onnx_shapes.part,
    "Cast": onnx_shapes.cast,
}
# Arguments that operators do not tell: a ceil_mode is told by the shape.
_UNTOLD = frozenset({"num_splits", "inplace", "ceil_mode", "eps"})
_ALIKE = {"Dropout2d": "Dropout", "GhostBatchNorm2d": "BatchNorm2d"}


def networks_in_onnx(data: bytes) -> tuple[ModuleGraph, ...]:
    """Read the network of an ONNX file. External data is not read, and nothing is executed.

    A network that cannot be read is one with a `problem`. Raises ImportSourceError if the bytes are no ONNX model.
    """
    model = model_without_weights(data)
    name = shown(model.graph.name) or "network"
    try:
        reader = GraphReader(model, _OPERATORS)
        nodes = reader.nodes_to_the_output()
    except ImportSourceError as error:
        return (ModuleGraph(name, (), str(error)),)
    return (ModuleGraph(name, _as_exported(model, nodes, reader) or nodes, notes=tuple(reader.notes)),)


def _as_exported(model: ModelProto, nodes: Sequence[ModuleNode], reader: GraphReader) -> tuple[ModuleNode, ...] | None:
    """The nodes of the notation in the file's metadata, if the operators are those of this notation; else None.

    The notation tells what operators do not: which dropout zeroes whole channels, and ghost batch norm.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == ONNX_KEY), None)
    if not isinstance(text, str):
        return None
    try:
        architecture = parse(text)
    except ArchitectureError:
        return None
    told = graph_nodes(architecture)
    shapes = [step.output_shape[:1] if step.is_flat else step.output_shape for step in operations(architecture)]
    is_told = shapes == reader.shapes and [_key(node) for node in told] == [_key(node) for node in nodes]
    return told if is_told else None


def _key(node: ModuleNode) -> tuple[object, ...]:
    """What operators tell of a node."""
    arguments = {
        name: _stored(value) if isinstance(value, float) else value
        for name, value in node.arguments.items()
        if name not in _UNTOLD
    }
    return _ALIKE.get(node.kind, node.kind), node.inputs, arguments


def _stored(number: float) -> float:
    """A number as it is read from a file, where it is a float32."""
    return short_number(struct.unpack("f", struct.pack("f", number))[0])
