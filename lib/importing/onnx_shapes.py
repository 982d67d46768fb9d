"""Operators of ONNX that change or compute shapes: flattening, other orders of the axes, and what views are made of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.design.layers import INPUT_SHAPE
from lib.importing.module_graph import IMAGE
from lib.importing.onnx_constants import Constant, without_leading_ones
from lib.importing.onnx_graph import FLOATS, GraphReader, Known, Value, number

if TYPE_CHECKING:
    from onnx import NodeProto


def flatten(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value = reader.value(node)
    axis = int(number(reader.attributes(node).get("axis", 1)))
    if axis not in (1, 1 - len(value.shape) - 1):
        raise reader.refused(node, "flattens other axes than those after the batch. Use nn.Flatten().")
    return reader.flat(value)


def reshape(reader: GraphReader, node: NodeProto, index: int) -> Known | None:
    if isinstance(reader.known[node.input[0]], Constant):
        return reader.known[node.input[0]]
    value, wanted = reader.value(node), reader.constant(node, 1)
    shape = reader.integers(node, wanted)
    total = math.prod(value.shape)
    if len(shape) == 4 and value.source == IMAGE and value.is_channels_last and tuple(shape[1:]) == INPUT_SHAPE:
        return replace(value, is_channels_last=False)
    norm = reader.only_consumer(node.output[0], "InstanceNormalization")
    if norm is not None and len(shape) == 3 and len(value.shape) == 3 and not value.is_channels_last:
        return _group_norm_of_instances(reader, node, value, shape, norm)
    # -1 stands for the rest: the batch in one place, what is left of an image in another.
    is_rest = shape[-1:] in ((-1,), (total,)) or (shape[-1:] == (0,) and len(value.shape) == 1)
    if len(shape) == 2 and is_rest and _is_batch(shape[0], shape[1] == total):
        return reader.flat(value)
    if len(shape) == len(value.shape) + 1 and _is_batch(shape[0], -1 not in shape[1:]):
        order = (*value.shape[1:], value.shape[0]) if value.is_channels_last else value.shape
        if all(side in (0, -1, had) for side, had in zip(shape[1:], order, strict=True)):
            return value
    raise reader.refused(node, "reshapes values other than by flattening them. Leave it out.")


def _is_batch(side: int | None, may_be_rest: bool) -> bool:
    return side is None or side == 0 or side >= 1 or (side == -1 and may_be_rest)


def _group_norm_of_instances(
    reader: GraphReader, node: NodeProto, value: Value, shape: Sequence[int | None], norm: int
) -> Known | None:
    """torch's export of a group norm: a map with each group as one channel, an instance norm, and scales."""
    groups, nodes = shape[1], reader.graph.node
    steps = [norm]
    for operator in ("Reshape", "Mul", "Add"):
        after = reader.only_consumer(nodes[steps[-1]].output[0], operator)
        if after is None:
            break
        steps.append(after)
    scales = reader.constant(nodes[norm], 1), reader.constant(nodes[norm], 2)
    is_plain = all(
        scale is not None and set(scale.numbers()) == {number} for scale, number in zip(scales, (1.0, 0.0), strict=True)
    )
    if len(steps) not in (2, 4) or groups is None or groups < 1 or not is_plain:
        raise reader.refused(node, "begins a norm that is not known. Use nn.GroupNorm.")
    for place in steps[2:]:
        constants = [reader.known.get(name) for name in nodes[place].input]
        found = [constant for constant in constants if isinstance(constant, Constant)]
        if len(found) != 1 or found[0].without_leading_ones != without_leading_ones((value.shape[0], 1, 1)):
            raise reader.refused(node, "begins a norm that is not known. Use nn.GroupNorm.")
    # The shape that the map gets back may be computed between these.
    reader.skipped.update(steps)
    reader.known[nodes[steps[-1]].output[0]] = reader.module(
        "GroupNorm",
        value,
        num_groups=groups,
        num_channels=value.shape[0],
        eps=reader.epsilon(nodes[norm]),
        affine=len(steps) == 4,
    )
    return None


def squeeze(reader: GraphReader, node: NodeProto, index: int) -> Known:
    known = reader.known[node.input[0]]
    if isinstance(known, Constant):
        return known.reshaped(()) if known.size == 1 else known
    value, axes = reader.value(node), reader.numbers(node, 1, "axes")
    rank = len(value.shape) + 1
    order = (*value.shape[1:], value.shape[0]) if value.is_channels_last else value.shape
    places = {int(axis) % rank for axis in axes} if axes else {axis for axis in range(1, rank) if order[axis - 1] == 1}
    if 0 in places or any(order[place - 1] != 1 for place in places):
        raise reader.refused(node, "removes an axis that has more than one position. Flatten the values instead.")
    left = [side for axis, side in enumerate(order, start=1) if axis not in places]
    if len(left) == len(order):
        return value
    flat = reader.flat(value)
    # Further axes of one position are removed by a further operator.
    return flat if len(left) == 1 else replace(flat, shape=tuple(left))


def unsqueeze(reader: GraphReader, node: NodeProto, index: int) -> Known:
    known = reader.known[node.input[0]]
    if isinstance(known, Constant):
        return known.reshaped((1, *known.shape))
    raise reader.refused(node, "adds an axis to values. Leave it out.")


def transpose(reader: GraphReader, node: NodeProto, index: int) -> Known:
    known = reader.known[node.input[0]]
    order = reader.attributes(node).get("perm")
    if isinstance(known, Constant):
        rank = len(known.shape)
        places = [int(axis) for axis in order] if isinstance(order, tuple) else list(range(rank))[::-1]
        if sorted(places) != list(range(rank)):
            raise reader.refused(node, "has axes that do not fit. Export the network again.")
        return known.reshaped(tuple(known.shape[place] for place in places))
    value = reader.value(node)
    if isinstance(order, tuple) and order == tuple(range(len(value.shape) + 1)):
        return value
    if order != ((0, 3, 1, 2) if value.is_channels_last else (0, 2, 3, 1)) or len(value.shape) != 3:
        raise reader.refused(node, "puts the axes in another order than torch does. Export with channels first.")
    return replace(value, is_channels_last=not value.is_channels_last)


def shape(reader: GraphReader, node: NodeProto, index: int) -> Known:
    value = reader.value(node)
    order = (*value.shape[1:], value.shape[0]) if value.is_channels_last else value.shape
    sides = (None, *order)
    attributes = reader.attributes(node)
    end = attributes.get("end")
    sides = sides[int(number(attributes.get("start", 0))) : None if end is None else int(number(end))]
    return Constant("", (len(sides),), sides)


def gather(reader: GraphReader, node: NodeProto, index: int) -> Known:
    sides, places = reader.integers(node, reader.constant(node, 0)), reader.integers(node, reader.constant(node, 1))
    shape = reader.constant(node, 1)
    if any(place is None or not -len(sides) <= place < len(sides) for place in places):
        raise reader.refused(node, "takes a part of a shape that does not exist. Export the network again.")
    found = tuple(sides[place] for place in places if place is not None)
    return Constant("", shape.shape if shape else (), found)


def part(reader: GraphReader, node: NodeProto, index: int) -> Known:
    if not isinstance(reader.known[node.input[0]], Constant):
        raise reader.refused(node, "takes a part of the values. Leave it out.")
    sides = reader.integers(node, reader.constant(node, 0))
    starts, ends, steps = reader.numbers(node, 1, "starts"), reader.numbers(node, 2, "ends"), reader.numbers(node, 4)
    if starts is None or ends is None or len(starts) != 1 or len(ends) != 1 or steps not in (None, (1,)):
        raise reader.refused(node, "takes a part of a shape in a way that is not known. Export the network again.")
    found = sides[int(starts[0]) : int(ends[0])]
    return Constant("", (len(found),), found)


def cast(reader: GraphReader, node: NodeProto, index: int) -> Known:
    known = reader.known[node.input[0]]
    # Between floating-point numbers nothing changes; 6 and 7 are int32 and int64.
    to = reader.attributes(node).get("to")
    if (isinstance(known, Constant) and to in (*FLOATS, 6, 7)) or to in FLOATS:
        return known
    raise reader.refused(node, "changes values into another type. Leave it out.")
