"""Arithmetic in ONNX: sums of branches, biases, normalized pixels, and activations of several operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lib.design.layers import INPUT_SHAPE, MEAN, STD
from lib.importing.module_graph import IMAGE
from lib.importing.onnx_constants import Constant, without_leading_ones
from lib.importing.onnx_graph import GraphReader, Known, Value
from lib.importing.pointwise import POINTS, POINTWISE, composite

if TYPE_CHECKING:
    from onnx import NodeProto

# How far apart the operators of one module may stand.
_REACH = 12
_NORMALIZED = "The normalization of the pixels is left out: every image is normalized here."


def arithmetic(reader: GraphReader, node: NodeProto, index: int) -> Known | None:
    if len(node.input) != 2:
        raise reader.refused(node, "does not have two inputs. Export the network again.")
    values = [reader.known[name] for name in node.input]
    if all(isinstance(value, Constant) for value in values):
        raise reader.refused(node, "computes with constants. Export the network with constants folded.")
    if is_begin_of_activation(reader, node, index):
        return None
    if any(isinstance(value, Value) and value.source == IMAGE for value in values) and node.op_type != "Add":
        return image_arithmetic(reader, node, index)
    if node.op_type == "Add":
        return addition(reader, node, index)
    both = all(isinstance(value, Value) for value in values)
    raise reader.refused(
        node,
        "combines two values other than by adding or concatenating them, as gates do. Leave it out."
        if both
        else "computes with a number. Only activations, norms and joins can be written; leave it out.",
    )


def image_arithmetic(reader: GraphReader, node: NodeProto, index: int) -> Known | None:
    """Sub and Div of the image by the mean and standard deviation that every image is normalized with."""
    after = reader.only_consumer(node.output[0], "Div")
    if node.op_type == "Sub" and after is not None and node.input[0] in reader.known:
        divided = reader.graph.node[after]
        mean, std = reader.known.get(node.input[1]), reader.known.get(divided.input[1])
        if isinstance(mean, Constant) and isinstance(std, Constant) and divided.input[0] == node.output[0]:
            found = (mean.numbers(), std.numbers())
            if all(map(is_near, (*found[0], *found[1]), (MEAN, STD))) and len(found[0]) == len(found[1]) == 1:
                reader.notes.append(_NORMALIZED)
                reader.skipped.add(after)
                reader.known[divided.output[0]] = reader.value(node)
                return None
    raise reader.refused(
        node,
        f"computes with the pixels. Only the normalization with the mean {MEAN} and the standard deviation {STD} "
        "is known; leave other arithmetic out.",
    )


def is_begin_of_activation(reader: GraphReader, node: NodeProto, index: int) -> bool:
    """Whether several operators from this one on are one activation. If so, its output is stored, and they are skipped.

    The inner outputs must have no other use.
    """
    sources = [name for name in node.input if isinstance(reader.known.get(name), Value)]
    if len(set(sources)) != 1:
        return False
    value = reader.value(node, list(node.input).index(sources[0]))
    if value.source == IMAGE and value.shape == INPUT_SHAPE and node.op_type in ("Sub", "Div", "Mul", "Add"):
        return False
    samples: dict[str, tuple[float, ...]] = {sources[0]: POINTS}
    parts: dict[str, int] = {}
    for place in range(index, min(index + _REACH, len(reader.graph.node))):
        part = reader.graph.node[place]
        found = _sampled(reader, part, samples)
        if found is None:
            continue
        samples[part.output[0]] = found
        parts[part.output[0]] = place
        kind = composite(found) if place > index else None
        if kind is None:
            continue
        needed = _parts_of(reader, part.output[0], parts)
        inner = {reader.graph.node[n].output[0] for n in needed} - {part.output[0]}
        if index in needed and all(set(reader.consumers.get(name, [])) <= needed for name in inner):
            reader.skipped |= needed
            name, arguments = kind
            reader.known[part.output[0]] = reader.module(name, value, **arguments)
            return True
    return False


def _parts_of(reader: GraphReader, name: str, parts: Mapping[str, int]) -> set[int]:
    found: set[int] = set()
    names = [name]
    while names:
        place = parts.get(names.pop())
        if place is not None and place not in found:
            found.add(place)
            names += reader.graph.node[place].input
    return found


def _sampled(
    reader: GraphReader, node: NodeProto, samples: Mapping[str, tuple[float, ...]]
) -> tuple[float, ...] | None:
    """The operator's output at POINTS if its inputs are known there; else None."""
    compute = POINTWISE.get(node.op_type)
    if compute is None or not any(name in samples for name in node.input):
        return None
    inputs: list[tuple[float, ...]] = []
    for name in node.input:
        known = reader.known.get(name)
        if name in samples:
            inputs.append(samples[name])
        elif isinstance(known, Constant) and known.size == 1 and known.is_readable:
            inputs.append(known.numbers() * len(POINTS))
        else:
            return None
    numbers = {name: float(n) for name, n in reader.attributes(node).items() if isinstance(n, int | float)}
    try:
        return tuple(compute(*point, **numbers) for point in zip(*inputs, strict=True))
    except (ArithmeticError, TypeError, ValueError):
        return None


def addition(reader: GraphReader, node: NodeProto, index: int) -> Known | None:
    values = [reader.known[name] for name in node.input]
    if len(values) == 1 and isinstance(values[0], Value):
        return values[0]
    given = [value for value in values if isinstance(value, Value)]
    if len(given) < len(values):
        return bias(reader, node, given)
    values_in = [reader.value(node, place) for place in range(len(values))]
    if len({(value.shape, value.is_channels_last) for value in values_in}) > 1:
        raise reader.refused(node, "adds values of different shapes. Give the branches the same shape.")
    return reader.add("Add", values_in, values_in[0].shape, {})


def bias(reader: GraphReader, node: NodeProto, given: Sequence[Value]) -> Known:
    """A number for each channel, added to the output of a layer that has no bias: it is that layer's bias."""
    constant = next(c for c in (reader.known[name] for name in node.input) if isinstance(c, Constant))
    if len(given) == 1 and given[0].source == len(reader.nodes) - 1 >= 0:
        value, last = given[0], reader.nodes[-1]
        name = next(name for name in node.input if isinstance(reader.known[name], Value))
        channels = (value.shape[0], *[1] * (len(value.shape) - 1))
        shape = (*channels[1:], channels[0]) if value.is_channels_last else channels
        if (
            last.kind in ("Conv2d", "Linear")
            and not last.arguments["bias"]
            and constant.without_leading_ones == without_leading_ones(shape)
            and reader.only_consumer(name, "Add") is not None
        ):
            reader.nodes[-1] = replace(last, arguments={**last.arguments, "bias": True})
            return value
    raise reader.refused(node, "adds constants to values. Only the bias of a layer can be written; leave others out.")


def is_near(number: float, wanted: float) -> bool:
    return abs(number - wanted) < 1e-5
