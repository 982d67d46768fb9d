"""Operators of ONNX that are a layer by themselves: convolutions, linear layers, norms and activations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from lib.importing.module_graph import Argument
from lib.importing.onnx_arithmetic import is_begin_of_activation, is_near
from lib.importing.onnx_constants import Constant, as_constant, attribute_numbers, short_number
from lib.importing.onnx_graph import GraphReader, Known, number
from lib.importing.onnx_windows import padding_of, sides

if TYPE_CHECKING:
    from onnx import NodeProto

# Each activation of ONNX: torch's class, and its attributes by ONNX's names: torch's name and ONNX's default.
ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, tuple[str, float]]]] = {
    "Relu": ("ReLU", {}),
    "LeakyRelu": ("LeakyReLU", {"alpha": ("negative_slope", 0.01)}),
    "Elu": ("ELU", {"alpha": ("alpha", 1.0)}),
    "Celu": ("CELU", {"alpha": ("alpha", 1.0)}),
    "Selu": ("SELU", {}),
    "Gelu": ("GELU", {}),
    "Swish": ("SiLU", {}),
    "Mish": ("Mish", {}),
    "HardSwish": ("Hardswish", {}),
    "HardSigmoid": ("Hardsigmoid", {}),
    "Softplus": ("Softplus", {}),
    "Softsign": ("Softsign", {}),
    "Tanh": ("Tanh", {}),
    "Sigmoid": ("Sigmoid", {}),
    "Softmax": ("Softmax", {}),
    "LogSoftmax": ("LogSoftmax", {}),
}
# More axes than any shape of a network has.
_MAX_AXES = 16


def convolution(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value, weight = reader.value(node, shaped=3), reader.weight(node, 1)
    attributes = reader.attributes(node)
    if len(weight.shape) != 4:
        raise reader.refused(node, "is no convolution of two axes. Use nn.Conv2d.")
    kernel = weight.shape[2:]
    stride, dilation = sides(reader, node, "strides"), sides(reader, node, "dilations")
    groups = int(number(attributes.get("group", 1)))
    padding = padding_of(reader, node, value, (kernel[0], kernel[1]), stride, dilation)
    return reader.module(
        "Conv2d",
        value,
        in_channels=weight.shape[1] * groups,
        out_channels=weight.shape[0],
        kernel_size=(kernel[0], kernel[1]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        bias=reader.constant(node, 2) is not None,
    )


def batch_norm(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value = reader.value(node)
    if reader.attributes(node).get("training_mode", 0):
        raise reader.refused(node, "is in training mode. Export the network after model.eval().")
    weight = reader.constant(node, 1)
    if weight is None or len(value.shape) not in (1, 3) or value.is_channels_last:
        raise reader.refused(node, "does not fit what reaches it. Export the network as torch does.")
    kind = "BatchNorm2d" if len(value.shape) == 3 else "BatchNorm1d"
    return reader.module(kind, value, num_features=weight.size, eps=reader.epsilon(node))


def group_norm(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value, weight = reader.value(node, shaped=3), reader.constant(node, 1)
    groups = int(number(reader.attributes(node).get("num_groups", 1)))
    if weight is None or weight.size != value.shape[0]:
        raise reader.refused(node, "has weights for groups and not for channels. Export with operator set 21.")
    return reader.module(
        "GroupNorm", value, num_groups=groups, num_channels=weight.size, eps=reader.epsilon(node), affine=True
    )


def layer_norm(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value, weight = reader.value(node), reader.constant(node, 1)
    rank = len(value.shape) + 1
    axis = int(number(reader.attributes(node).get("axis", -1))) % rank
    bias = reader.constant(node, 2) is not None
    if value.is_channels_last:
        if axis != rank - 1 or weight is None or weight.size != value.shape[0] or not bias:
            raise reader.refused(node, "normalizes over axes that are not available. Normalize over the channels.")
        arguments: dict[str, Argument] = {
            "normalized_shape": (value.shape[0],),
            "eps": reader.epsilon(node),
            "elementwise_affine": True,
            "bias": True,
        }
        return reader.add("LayerNorm2d", [value], value.shape, arguments)
    if axis == 0:
        raise reader.refused(node, "normalizes over the images of a batch. Leave it out.")
    return reader.module(
        "LayerNorm",
        value,
        normalized_shape=value.shape[axis - 1 :],
        eps=reader.epsilon(node),
        elementwise_affine=True,
        bias=bias,
    )


def instance_norm(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value, weight, bias = reader.value(node, shaped=3), reader.constant(node, 1), reader.constant(node, 2)
    if weight is None or bias is None:
        raise reader.refused(node, "has no weights. Export the network again.")
    is_plain = set(weight.numbers()) == {1.0} and set(bias.numbers()) == {0.0}
    return reader.module(
        "InstanceNorm2d", value, num_features=weight.size, eps=reader.epsilon(node), affine=not is_plain
    )


def activation(reader: GraphReader, node: NodeProto, index: int) -> Known | None:
    """An activation by itself, or the first operator of several that are one."""
    value = reader.value(node)
    if is_begin_of_activation(reader, node, index):
        return None
    attributes = reader.attributes(node)
    kind, names = ACTIVATIONS[node.op_type]
    given: dict[str, Argument] = {
        torch_name: short_number(number(attributes.get(name, default))) for name, (torch_name, default) in names.items()
    }
    if node.op_type == "Selu" and not (
        is_near(number(attributes.get("alpha", 1.6732632)), 1.6732632423543772)
        and is_near(number(attributes.get("gamma", 1.0507009)), 1.0507009873554805)
    ):
        raise reader.refused(node, "has other numbers than SELU has. Leave them out.")
    if node.op_type == "HardSigmoid" and not (
        is_near(number(attributes.get("alpha", 0.2)), 1 / 6) and is_near(number(attributes.get("beta", 0.5)), 0.5)
    ):
        raise reader.refused(node, "is a hard sigmoid of another slope than torch's. Use another activation.")
    if node.op_type == "Gelu":
        approximate = attributes.get("approximate", "none")
        given["approximate"] = approximate if isinstance(approximate, str) else "none"
    if node.op_type in ("Softmax", "LogSoftmax"):
        given["dim"] = 1
    return reader.module(kind, value, **given)


def prelu(reader: GraphReader, node: NodeProto, index: int) -> Known:
    slope = reader.constant(node, 1)
    if slope is None:
        raise reader.refused(node, "has no slope. Export the network again.")
    return reader.module("PReLU", reader.value(node), num_parameters=slope.size)


def clip(reader: GraphReader, node: NodeProto, index: int) -> Known | None:
    value = reader.value(node)
    if is_begin_of_activation(reader, node, index):
        return None
    lowest, highest = reader.numbers(node, 1, "min"), reader.numbers(node, 2, "max")
    match (lowest or (-math.inf,))[0], (highest or (math.inf,))[0]:
        case 0.0, 6.0:
            return reader.module("ReLU6", value)
        case 0.0, high if high > 1e30:
            return reader.module("ReLU", value)
        case low, high:
            return reader.module("Hardtanh", value, min_val=float(low), max_val=float(high))


def dropout(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value = reader.value(node)
    # Since operator set 12 the ratio is an input.
    ratio = reader.numbers(node, 1, "ratio")
    p = short_number(ratio[0]) if ratio else 0.5
    if not 0 <= p <= 1:
        raise reader.refused(node, f"has the ratio {p:g}, and it must be from 0 to 1. Export the network again.")
    return reader.module("Dropout", value, p=p)


def identity(reader: GraphReader, node: NodeProto, index: int) -> Known:
    return reader.known[node.input[0]]


def linear(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value, weight = reader.value(node, shaped=1), reader.weight(node, 1)
    attributes = reader.attributes(node)
    numbers = [number(attributes.get(name, default)) for name, default in (("alpha", 1), ("beta", 1))]
    if len(weight.shape) != 2 or numbers != [1.0, 1.0] or attributes.get("transA", 0):
        raise reader.refused(node, "is no linear layer of torch. Use nn.Linear.")
    outputs, inputs = weight.shape if attributes.get("transB", 0) else weight.shape[::-1]
    return reader.module(
        "Linear",
        value,
        in_features=inputs,
        out_features=outputs,
        bias=node.op_type == "Gemm" and reader.constant(node, 2) is not None,
    )


def concat(reader: GraphReader, node: NodeProto, index: int) -> Known:
    known = [reader.known[name] for name in node.input]
    constants = [part for part in known if isinstance(part, Constant)]
    if len(constants) == len(known):
        joined = tuple(side for part in constants for side in reader.integers(node, part))
        if len(joined) > _MAX_AXES:
            raise reader.refused(node, "makes a shape of too many axes. Export the network again.")
        return Constant("", (len(joined),), joined)
    values = [reader.value(node, place) for place in range(len(known))]
    shapes = {(value.shape[1:], value.is_channels_last) for value in values}
    rank = len(values[0].shape) + 1
    axis = int(number(reader.attributes(node).get("axis", 1))) % rank
    if len(shapes) > 1 or axis != (rank - 1 if values[0].is_channels_last else 1):
        raise reader.refused(node, "concatenates other than the channels of maps of one size. Use dim=1.")
    if len(values) == 1:
        return values[0]
    channels = sum(value.shape[0] for value in values)
    return reader.add("Concat", values, (channels, *values[0].shape[1:]), {})


def literal(reader: GraphReader, node: NodeProto, index: int) -> Known:
    for part in node.attribute:
        if part.name == "value":
            return as_constant(part.t, node.output[0])
        found = attribute_numbers(part)
        if part.name.startswith("value_") and isinstance(found, int | float):
            return Constant(node.output[0], (), (found,))
        if part.name.startswith("value_") and isinstance(found, tuple):
            return Constant(node.output[0], (len(found),), found)
    raise reader.refused(node, "has no value that can be read. Export the network again.")


def global_pool(reader: GraphReader, node: NodeProto, index: int) -> Known:
    kind = "AdaptiveAvgPool2d" if node.op_type == "GlobalAveragePool" else "AdaptiveMaxPool2d"
    return reader.module(kind, reader.value(node, shaped=3), output_size=1)


def reduce(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value = reader.value(node)
    axes = reader.numbers(node, 1, "axes") or ()
    rank = len(value.shape) + 1
    spatial = {1, 2} if value.is_channels_last else {2, 3}
    if len(value.shape) != 3 or {int(axis) % rank for axis in axes} != spatial:
        raise reader.refused(
            node,
            "reduces other axes than height and width. Use a global pool; for a layer norm, export with operator "
            "set 17 or later.",
        )
    found = reader.module(
        "AdaptiveAvgPool2d" if node.op_type == "ReduceMean" else "AdaptiveMaxPool2d", value, output_size=1
    )
    return found if reader.attributes(node).get("keepdims", 1) else reader.flat(found)
