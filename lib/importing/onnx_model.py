"""The network in an ONNX file: its operators as modules of torch, without the onnx package's runtime or checker.

Files come from torch.onnx.export, from tf2onnx, and from this project's own export. Several operators may be one
module, such as a sigmoid whose output is multiplied by its input (SiLU).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from lib.design.layers import INPUT_SHAPE, MEAN, STD, ArchitectureError
from lib.design.notation import ONNX_KEY, parse
from lib.design.operations import operations
from lib.importing.architecture_graph import graph_nodes
from lib.importing.module_graph import IMAGE, Argument, ImportSourceError, ModuleGraph, ModuleNode
from lib.importing.onnx_constants import Constant, as_constant, attribute_numbers, short_number
from lib.importing.onnx_content import model_without_weights
from lib.importing.pointwise import POINTS, POINTWISE, composite
from lib.importing.torch_modules import ArgumentsError, bound_arguments, output_shape
from lib.text.untrusted_text import visible

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MAX_NODES = 3_000
_LONGEST_NAME = 60
# How far apart the operators of one module may stand.
_REACH = 12
_FLOATS = (1, 10, 11)  # float32, float16 and float64 in ONNX's numbering of types
_NORMALIZED = "The normalization of the pixels is left out: every image is normalized here."
_ANY_SIZE = "The file leaves the size of the image open; it is read for 28×28 pixels."
_AXES = "The axes are in an order that is not available. Export with channels first, as torch does."


@dataclass(frozen=True)
class _Value:
    """An output for one image: `source` is the node that computes it, `shape` is without the batch.

    `is_channels_last` says that its axes stand as (height, width, channels) in the file; `shape` is in torch's order
    all the same.
    """

    source: int
    shape: tuple[int, ...]
    is_channels_last: bool = False
    # Zeros around a map that are not yet part of a module: (height, width) at the begin and at the end.
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


_Known: TypeAlias = _Value | Constant


def networks_in_onnx(data: bytes) -> tuple[ModuleGraph, ...]:
    """Read the network of an ONNX file. External data is not read, and nothing is executed.

    A network that cannot be read is one with a `problem`. Raises ImportSourceError if the bytes are no ONNX model.
    """
    model = model_without_weights(data)
    name = _shown(model.graph.name) or "network"
    try:
        reader = _Reader(model)
        nodes = reader.nodes_to_the_output()
    except ImportSourceError as error:
        return (ModuleGraph(name, (), str(error)),)
    return (ModuleGraph(name, _as_exported(model, nodes, reader) or nodes, notes=tuple(reader.notes)),)


def _shown(text: str | bytes) -> str:
    # Text that is no UTF-8 is left as bytes by protobuf.
    text = visible(text if isinstance(text, str) else text.decode("utf-8", "replace")).strip()
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


class _Reader:
    """Follows the operators of a graph in their order. Raises ImportSourceError."""

    def __init__(self, model: ModelProto) -> None:
        self.graph = model.graph
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        self.nodes: list[ModuleNode] = []
        self.shapes: list[tuple[int, ...]] = []
        self.notes: list[str] = []
        self.skipped: set[int] = set()
        # Names of the weights that a module has; a second one would share them.
        self.used_weights: set[str] = set()
        self.known: dict[str, _Known] = {}
        if len(self.graph.node) > MAX_NODES:
            raise ImportSourceError(
                f"The file has {len(self.graph.node):,} operators; at most {MAX_NODES:,} are read. Export a smaller "
                "network."
            )
        if not self.opset:
            raise ImportSourceError("The file does not say which version of ONNX it uses. Export the network again.")
        for tensor in self.graph.initializer:
            self.known[tensor.name] = as_constant(tensor)
        self._read_input()
        self.consumers: dict[str, list[int]] = {}
        for index, node in enumerate(self.graph.node):
            for name in set(node.input):
                self.consumers.setdefault(name, []).append(index)
        outputs = [output.name for output in self.graph.output]
        if len(outputs) != 1:
            raise ImportSourceError(
                f"The network has {len(outputs)} outputs, and a classifier of digits has one. Export it with one."
            )
        # So that no operator whose output the network has is taken for an inner part of a module.
        self.consumers.setdefault(outputs[0], []).append(-1)
        self.output = outputs[0]
        # Constants may stand between the operators that are one module.
        for index, node in enumerate(self.graph.node):
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                self._read(index, node)
                self.skipped.add(index)
        for index, node in enumerate(self.graph.node):
            if index not in self.skipped:
                self._read(index, node)

    def _read_input(self) -> None:
        inputs = [given for given in self.graph.input if given.name not in self.known]
        if len(inputs) != 1:
            raise ImportSourceError(
                f"The network has {len(inputs)} inputs, and a classifier of digits has one, the image. Export it with "
                "one."
            )
        kind = inputs[0].type.tensor_type
        sides = [
            side.dim_value if side.HasField("dim_value") and side.dim_value > 0 else None for side in kind.shape.dim
        ]
        if kind.elem_type not in _FLOATS:
            raise ImportSourceError("The input is no image of floating-point numbers. Export the network with one.")
        is_channels_last = len(sides) == 4 and sides[3] == 1 and sides[1:3] == [28, 28]
        wanted = (28, 28, 1) if is_channels_last else INPUT_SHAPE
        if len(sides) != 4 or any(side not in (None, want) for side, want in zip(sides[1:], wanted, strict=True)):
            text = "×".join("N" if side is None else f"{side}" for side in sides) or "one number"
            raise ImportSourceError(
                f"The input is {text}, and an image of a digit is N×1×28×28. Export the network with such an input."
            )
        if None in sides[1:]:
            self.notes.append(_ANY_SIZE)
        self.known[inputs[0].name] = _Value(IMAGE, INPUT_SHAPE, is_channels_last)

    def nodes_to_the_output(self) -> tuple[ModuleNode, ...]:
        """The nodes that the output depends on, in order; it is the output of the last one."""
        end = self.known.get(self.output)
        if not isinstance(end, _Value):
            raise ImportSourceError("The output does not depend on the image. Export the network again.")
        needed: set[int] = set()
        open_nodes = [end.source]
        while open_nodes:
            index = open_nodes.pop()
            if index not in needed and index != IMAGE:
                needed.add(index)
                open_nodes += self.nodes[index].inputs
        places = {IMAGE: IMAGE, **{index: place for place, index in enumerate(sorted(needed))}}
        self.shapes = [self.shapes[index] for index in sorted(needed)]
        return tuple(
            replace(self.nodes[index], inputs=tuple(places[source] for source in self.nodes[index].inputs))
            for index in sorted(needed)
        )

    def _read(self, index: int, node: NodeProto) -> None:
        read = _OPERATORS.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if read is None:
            raise self._refused(
                node,
                "is not available here. Replace it by a layer that the notation has, or leave it out.",
            )
        for name in node.input:
            if name and name not in self.known:
                raise self._refused(node, "takes a value that nothing computes before it. Export the network again.")
        try:
            found = read(self, node, index)
            if found is not None:
                self.known[node.output[0]] = found
        except ArgumentsError as error:
            raise ImportSourceError(f"{self._where(node)}: {error}") from error
        except ImportSourceError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Attributes and inputs may be of any number and type.
            raise self._refused(node, "has attributes or inputs that do not fit. Export the network again.") from error

    def _where(self, node: NodeProto) -> str:
        name = _shown(node.name)
        kind = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        return f"Operator {_shown(kind)}" + (f" “{name}”" if name else "")

    def _refused(self, node: NodeProto, sentence: str) -> ImportSourceError:
        return ImportSourceError(f"{self._where(node)} {sentence}")

    def attributes(self, node: NodeProto) -> dict[str, object]:
        return {part.name: attribute_numbers(part) for part in node.attribute}

    def value(self, node: NodeProto, place: int = 0, *, shaped: int | None = None) -> _Value:
        """An input that depends on the image; `shaped` is the number of axes that it must have, without the batch."""
        found = self.known.get(node.input[place]) if len(node.input) > place else None
        if not isinstance(found, _Value):
            raise self._refused(node, "does not take what the layers before it compute. Export the network again.")
        if any(found.pads) and node.op_type not in ("Conv", "AveragePool"):
            raise self._refused(
                node, "follows a padding with zeros, which is available for a convolution or an average pool alone."
            )
        if shaped is not None and (len(found.shape) != shaped or found.is_channels_last):
            what = "a map with channels first" if shaped == 3 else "flat values"
            raise self._refused(node, f"takes {what}, and something else reaches it. Export the network as torch does.")
        return found

    def constant(self, node: NodeProto, place: int) -> Constant | None:
        """An input that is a constant; None if there is no such input. Raises ImportSourceError for a value."""
        if len(node.input) <= place or not node.input[place]:
            return None
        found = self.known[node.input[place]]
        if not isinstance(found, Constant):
            raise self._refused(node, "has weights that are computed. Only weights that are in the file can be read.")
        return found

    def numbers(self, node: NodeProto, place: int, attribute: str = "") -> tuple[float, ...] | None:
        """The numbers of a constant input, or of the attribute that older versions have instead; None without both."""
        found = self.attributes(node).get(attribute) if attribute else None
        if isinstance(found, tuple):
            return found
        if isinstance(found, int | float):
            return (found,)
        constant = self.constant(node, place)
        return None if constant is None else constant.numbers()

    def weight(self, node: NodeProto, place: int) -> Constant:
        """The main weight of a module. Raises ImportSourceError if another module has it, too."""
        found = self.constant(node, place)
        if found is None:
            raise self._refused(node, "has no weights. Export the network again.")
        # Exporters store equal biases and norms once, but equal random weights are shared ones.
        if found.name in self.used_weights:
            raise self._refused(
                node, "has the weights of a layer before it. Shared weights cannot be written; give each its own."
            )
        self.used_weights.add(found.name)
        return found

    def add(
        self, kind: str, inputs: Sequence[_Value], shape: tuple[int, ...], arguments: Mapping[str, Argument]
    ) -> _Value:
        self.nodes.append(ModuleNode(kind, tuple(value.source for value in inputs), arguments))
        self.shapes.append(shape)
        return _Value(len(self.nodes) - 1, shape, inputs[0].is_channels_last)

    def module(self, kind: str, value: _Value, **given: Argument) -> _Value:
        """Add a module of torch. Raises ArgumentsError if it does not fit."""
        arguments = bound_arguments(kind, (), given)
        return self.add(kind, [value], output_shape(kind, arguments, value.shape), arguments)

    def flat(self, value: _Value) -> _Value:
        if len(value.shape) == 1:
            return value
        return replace(self.module("Flatten", value), is_channels_last=False)

    def only_consumer(self, name: str, operator: str) -> int | None:
        """The place of the one node that takes a value, if it is this operator; else None."""
        places = self.consumers.get(name, [])
        if len(places) == 1 and places[0] >= 0 and self.graph.node[places[0]].op_type == operator:
            return places[0]
        return None

    # The operators: each takes its node and returns what it outputs, None if it has stored that itself.

    def image_arithmetic(self, node: NodeProto, index: int) -> _Known | None:
        """Sub and Div of the image by the mean and standard deviation that every image is normalized with."""
        after = self.only_consumer(node.output[0], "Div")
        if node.op_type == "Sub" and after is not None and node.input[0] in self.known:
            divided = self.graph.node[after]
            mean, std = self.known.get(node.input[1]), self.known.get(divided.input[1])
            if isinstance(mean, Constant) and isinstance(std, Constant) and divided.input[0] == node.output[0]:
                found = (mean.numbers(), std.numbers())
                if all(map(_is_near, (*found[0], *found[1]), (MEAN, STD))) and len(found[0]) == len(found[1]) == 1:
                    self.notes.append(_NORMALIZED)
                    self.skipped.add(after)
                    self.known[divided.output[0]] = self.value(node)
                    return None
        raise self._refused(
            node,
            f"computes with the pixels. Only the normalization with the mean {MEAN} and the standard deviation {STD} "
            "is known; leave other arithmetic out.",
        )

    def arithmetic(self, node: NodeProto, index: int) -> _Known | None:
        if len(node.input) != 2:
            raise self._refused(node, "does not have two inputs. Export the network again.")
        values = [self.known[name] for name in node.input]
        if all(isinstance(value, Constant) for value in values):
            return self.folded(node, index)
        if self.pointwise(node, index) is None:
            return None
        if any(isinstance(value, _Value) and value.source == IMAGE for value in values) and node.op_type != "Add":
            return self.image_arithmetic(node, index)
        if node.op_type == "Add":
            return self.sum(node, index)
        both = all(isinstance(value, _Value) for value in values)
        raise self._refused(
            node,
            "combines two values other than by adding or concatenating them, as gates do. Leave it out."
            if both
            else "computes with a number. Only activations, norms and joins can be written; leave it out.",
        )

    def folded(self, node: NodeProto, index: int) -> _Known:
        """What shapes are computed from: whole numbers."""
        raise self._refused(node, "computes with constants. Export the network with constants folded.")

    def pointwise(self, node: NodeProto, index: int) -> _Known | None:
        """Store the output of several operators that are one activation, and return None; or return a constant 0."""
        sources = [name for name in node.input if isinstance(self.known.get(name), _Value)]
        if not sources or len(set(sources)) > 1 or sources[0] not in self.known:
            return Constant("", ())
        value = self.value(node, list(node.input).index(sources[0]))
        if value.source == IMAGE and value.shape == INPUT_SHAPE and node.op_type in ("Sub", "Div", "Mul", "Add"):
            return Constant("", ())
        samples: dict[str, tuple[float, ...]] = {sources[0]: POINTS}
        parts: dict[str, int] = {}
        for place in range(index, min(index + _REACH, len(self.graph.node))):
            part = self.graph.node[place]
            found = self._sampled(part, samples)
            if found is None:
                continue
            samples[part.output[0]] = found
            parts[part.output[0]] = place
            kind = composite(found) if place > index else None
            if kind is None:
                continue
            needed = self._parts_of(part.output[0], parts)
            inner = {self.graph.node[n].output[0] for n in needed} - {part.output[0]}
            if index in needed and all(set(self.consumers.get(name, [])) <= needed for name in inner):
                self.skipped |= needed
                name, arguments = kind
                self.known[part.output[0]] = self.module(name, value, **arguments)
                return None
        return Constant("", ())

    def _parts_of(self, name: str, parts: Mapping[str, int]) -> set[int]:
        found: set[int] = set()
        names = [name]
        while names:
            place = parts.get(names.pop())
            if place is not None and place not in found:
                found.add(place)
                names += self.graph.node[place].input
        return found

    def _sampled(self, node: NodeProto, samples: Mapping[str, tuple[float, ...]]) -> tuple[float, ...] | None:
        """The operator's output at POINTS if its inputs are known there; else None."""
        compute = POINTWISE.get(node.op_type)
        if compute is None or not any(name in samples for name in node.input):
            return None
        inputs: list[tuple[float, ...]] = []
        for name in node.input:
            known = self.known.get(name)
            if name in samples:
                inputs.append(samples[name])
            elif isinstance(known, Constant) and known.size == 1 and known.is_readable:
                inputs.append(known.numbers() * len(POINTS))
            else:
                return None
        numbers = {name: float(n) for name, n in self.attributes(node).items() if isinstance(n, int | float)}
        try:
            return tuple(compute(*point, **numbers) for point in zip(*inputs, strict=True))
        except (ArithmeticError, TypeError, ValueError):
            return None

    def sum(self, node: NodeProto, index: int) -> _Known | None:
        values = [self.known[name] for name in node.input]
        if len(values) == 1 and isinstance(values[0], _Value):
            return values[0]
        given = [value for value in values if isinstance(value, _Value)]
        if len(given) < len(values):
            return self.bias(node, given)
        values_in = [self.value(node, place) for place in range(len(values))]
        if len({(value.shape, value.is_channels_last) for value in values_in}) > 1:
            raise self._refused(node, "adds values of different shapes. Give the branches the same shape.")
        return self.add("Add", values_in, values_in[0].shape, {})

    def bias(self, node: NodeProto, given: Sequence[_Value]) -> _Known:
        """A number for each channel, added to the output of a layer that has no bias: it is that layer's bias."""
        constant = next(c for c in (self.known[name] for name in node.input) if isinstance(c, Constant))
        if len(given) == 1 and given[0].source == len(self.nodes) - 1 >= 0:
            value, last = given[0], self.nodes[-1]
            name = next(name for name in node.input if isinstance(self.known[name], _Value))
            channels = (value.shape[0], *[1] * (len(value.shape) - 1))
            shape = (*channels[1:], channels[0]) if value.is_channels_last else channels
            if (
                last.kind in ("Conv2d", "Linear")
                and not last.arguments["bias"]
                and constant.without_leading_ones == _without_leading_ones(shape)
                and self.only_consumer(name, "Add") is not None
            ):
                self.nodes[-1] = replace(last, arguments={**last.arguments, "bias": True})
                return value
        raise self._refused(
            node, "adds constants to values. Only the bias of a layer can be written; leave others out."
        )

    def convolution(self, node: NodeProto, index: int) -> _Known:
        value, weight = self.value(node, shaped=3), self.weight(node, 1)
        attributes = self.attributes(node)
        if len(weight.shape) != 4:
            raise self._refused(node, "is no convolution of two axes. Use nn.Conv2d.")
        kernel = weight.shape[2:]
        stride, dilation = self._sides(node, "strides"), self._sides(node, "dilations")
        groups = int(_number(attributes.get("group", 1)))
        padding = self._padding(node, value, (kernel[0], kernel[1]), stride, dilation)
        return self.module(
            "Conv2d",
            value,
            in_channels=weight.shape[1] * groups,
            out_channels=weight.shape[0],
            kernel_size=(kernel[0], kernel[1]),
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=self.constant(node, 2) is not None,
        )

    def _sides(self, node: NodeProto, name: str, default: int = 1) -> tuple[int, int]:
        found = self.attributes(node).get(name, (default, default))
        if not isinstance(found, tuple) or len(found) != 2 or not all(1 <= side <= 1_000_000 for side in found):
            raise self._refused(node, f"has {name} that do not fit. Export the network again.")
        return int(found[0]), int(found[1])

    def _pads(
        self, node: NodeProto, value: _Value, extent: tuple[int, int], stride: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """The padding (begin, end) along each axis, without that of an operator before it."""
        attributes = self.attributes(node)
        kind = attributes.get("auto_pad", "NOTSET")
        if kind in ("SAME_UPPER", "SAME_LOWER"):
            found = []
            for side, length, step in zip(value.shape[1:], extent, stride, strict=True):
                total = max((-(-side // step) - 1) * step + length - side, 0)
                small, large = total // 2, total - total // 2
                found.append((small, large) if kind == "SAME_UPPER" else (large, small))
            return found[0], found[1]
        pads = attributes.get("pads", (0, 0, 0, 0)) if kind == "NOTSET" else (0, 0, 0, 0)
        if not isinstance(pads, tuple) or len(pads) != 4 or not all(0 <= pad <= 10_000 for pad in pads):
            raise self._refused(node, "has a padding that does not fit. Use the same number of zeros on each side.")
        return (int(pads[0]), int(pads[2])), (int(pads[1]), int(pads[3]))

    def _padding(
        self,
        node: NodeProto,
        value: _Value,
        kernel: tuple[int, int],
        stride: tuple[int, int],
        dilation: tuple[int, int],
    ) -> tuple[int, int]:
        """The padding of a convolution, the same at both ends. An end that no window reaches does not count."""
        extent = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
        found = []
        for axis, (begin, end) in enumerate(self._pads(node, value, extent, stride)):
            begin, end = begin + value.pads[axis], end + value.pads[2 + axis]
            side = value.shape[1 + axis]
            if begin != end and _count(side + begin + end, extent[axis], stride[axis]) != _count(
                side + 2 * begin, extent[axis], stride[axis]
            ):
                raise self._refused(
                    node,
                    f"pads {begin} at one side and {end} at the other. Use the same number of zeros on each side.",
                )
            found.append(begin)
        return found[0], found[1]

    def pool(self, node: NodeProto, index: int) -> _Known:
        value = self.value(node, shaped=3)
        is_average = node.op_type == "AveragePool"
        attributes = self.attributes(node)
        if "kernel_shape" not in attributes or len([name for name in node.output if name]) != 1:
            raise self._refused(node, "has no size, or outputs places of maxima. Use nn.MaxPool2d or nn.AvgPool2d.")
        kernel, stride = self._sides(node, "kernel_shape"), self._sides(node, "strides")
        dilation = self._sides(node, "dilations")
        counts_padding = bool(attributes.get("count_include_pad", 0))
        extent = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
        is_ceil = [bool(attributes.get("ceil_mode", 0))]
        padding = []
        for axis, (begin, end) in enumerate(self._pads(node, value, extent, stride)):
            side, before, after = value.shape[1 + axis], value.pads[axis], value.pads[2 + axis]
            if before or after:
                # Zeros that another operator adds count in the mean.
                if before != after or begin or (end and counts_padding):
                    raise self._refused(node, "pads twice in a way that no pool does. Use the pool's own padding.")
                begin, end = before, before + end
            floor = _count(side + 2 * begin, extent[axis], stride[axis])
            wanted = _count(side + begin + end, extent[axis], stride[axis])
            if wanted != floor:
                # What is beyond the padding is left out of a mean, as by torch with ceil_mode.
                if wanted != _ceiled(side, extent[axis], stride[axis], begin) or (is_average and counts_padding):
                    raise self._refused(
                        node, f"pads {begin} at one side and {end} at the other. Use the same padding on each side."
                    )
                is_ceil.append(True)
            padding.append(begin)
        given: dict[str, Argument] = {
            "kernel_size": kernel,
            "stride": stride,
            "padding": (padding[0], padding[1]),
            "ceil_mode": any(is_ceil),
        }
        if is_average:
            if dilation != (1, 1):
                raise self._refused(node, "is a mean over windows with gaps. Leave the dilation out.")
            given["count_include_pad"] = counts_padding or padding == [0, 0] or any(value.pads)
        else:
            given["dilation"] = dilation
        found = self.module("AvgPool2d" if is_average else "MaxPool2d", replace(value, pads=(0, 0, 0, 0)), **given)
        for axis, (begin, end) in enumerate(self._pads(node, value, extent, stride)):
            length = value.shape[1 + axis] + value.pads[axis] + value.pads[2 + axis] + begin + end
            if not attributes.get("ceil_mode") and found.shape[1 + axis] != _count(length, extent[axis], stride[axis]):
                raise self._refused(node, "keeps cut-off windows along one axis alone. Use ceil_mode for both.")
        return found

    def pad(self, node: NodeProto, index: int) -> _Known:
        value = self.value(node, shaped=3)
        attributes = self.attributes(node)
        pads, fill = self.numbers(node, 1, "pads"), self.numbers(node, 2, "value") or (0.0,)
        mode = attributes.get("mode", "constant")
        if pads is None or len(pads) != 8 or any(pads[place] for place in (0, 1, 4, 5)) or len(node.input) > 3:
            raise self._refused(node, "pads other axes than height and width. Leave it out.")
        if mode != "constant" or fill != (0.0,) or not all(0 <= pad <= 10_000 for pad in pads):
            raise self._refused(node, "pads with something else than zeros. Use zeros.")
        return replace(value, pads=(int(pads[2]), int(pads[3]), int(pads[6]), int(pads[7])))

    def global_pool(self, node: NodeProto, index: int) -> _Known:
        kind = "AdaptiveAvgPool2d" if node.op_type == "GlobalAveragePool" else "AdaptiveMaxPool2d"
        return self.module(kind, self.value(node, shaped=3), output_size=1)

    def reduce(self, node: NodeProto, index: int) -> _Known:
        value = self.value(node)
        axes = self.numbers(node, 1, "axes") or ()
        rank = len(value.shape) + 1
        spatial = {1, 2} if value.is_channels_last else {2, 3}
        if len(value.shape) != 3 or {int(axis) % rank for axis in axes} != spatial:
            raise self._refused(
                node,
                "reduces other axes than height and width. Use a global pool; for a layer norm, export with operator "
                "set 17 or later.",
            )
        found = self.module(
            "AdaptiveAvgPool2d" if node.op_type == "ReduceMean" else "AdaptiveMaxPool2d", value, output_size=1
        )
        return found if self.attributes(node).get("keepdims", 1) else self.flat(found)

    def batch_norm(self, node: NodeProto, index: int) -> _Known:
        value = self.value(node)
        if self.attributes(node).get("training_mode", 0):
            raise self._refused(node, "is in training mode. Export the network after model.eval().")
        weight = self.constant(node, 1)
        if weight is None or len(value.shape) not in (1, 3) or value.is_channels_last:
            raise self._refused(node, "does not fit what reaches it. Export the network as torch does.")
        kind = "BatchNorm2d" if len(value.shape) == 3 else "BatchNorm1d"
        return self.module(kind, value, num_features=weight.size, eps=self._epsilon(node))

    def _epsilon(self, node: NodeProto) -> float:
        return short_number(_number(self.attributes(node).get("epsilon", 1e-5)))

    def group_norm(self, node: NodeProto, index: int) -> _Known:
        value, weight = self.value(node, shaped=3), self.constant(node, 1)
        groups = int(_number(self.attributes(node).get("num_groups", 1)))
        if weight is None or weight.size != value.shape[0]:
            raise self._refused(node, "has weights for groups and not for channels. Export with operator set 21.")
        return self.module(
            "GroupNorm", value, num_groups=groups, num_channels=weight.size, eps=self._epsilon(node), affine=True
        )

    def layer_norm(self, node: NodeProto, index: int) -> _Known:
        value, weight = self.value(node), self.constant(node, 1)
        rank = len(value.shape) + 1
        axis = int(_number(self.attributes(node).get("axis", -1))) % rank
        bias = self.constant(node, 2) is not None
        if value.is_channels_last:
            if axis != rank - 1 or weight is None or weight.size != value.shape[0] or not bias:
                raise self._refused(node, "normalizes over axes that are not available. Normalize over the channels.")
            arguments: dict[str, Argument] = {"num_channels": value.shape[0], "eps": self._epsilon(node)}
            return self.add("LayerNorm2d", [value], value.shape, arguments)
        if axis == 0:
            raise self._refused(node, "normalizes over the images of a batch. Leave it out.")
        return self.module(
            "LayerNorm",
            value,
            normalized_shape=value.shape[axis - 1 :],
            eps=self._epsilon(node),
            elementwise_affine=True,
            bias=bias,
        )

    def instance_norm(self, node: NodeProto, index: int) -> _Known:
        value, weight, bias = self.value(node, shaped=3), self.constant(node, 1), self.constant(node, 2)
        if weight is None or bias is None:
            raise self._refused(node, "has no weights. Export the network again.")
        is_plain = set(weight.numbers()) == {1.0} and set(bias.numbers()) == {0.0}
        return self.module(
            "InstanceNorm2d", value, num_features=weight.size, eps=self._epsilon(node), affine=not is_plain
        )

    def activation(self, node: NodeProto, index: int) -> _Known | None:
        """An activation by itself, or the first operator of several that are one."""
        value = self.value(node)
        if self.pointwise(node, index) is None:
            return None
        attributes = self.attributes(node)
        kind, names = _ACTIVATIONS[node.op_type]
        given: dict[str, Argument] = {
            torch_name: short_number(_number(attributes.get(name, default)))
            for name, (torch_name, default) in names.items()
        }
        if node.op_type == "Selu" and not (
            _is_near(_number(attributes.get("alpha", 1.6732632)), 1.6732632423543772)
            and _is_near(_number(attributes.get("gamma", 1.0507009)), 1.0507009873554805)
        ):
            raise self._refused(node, "has other numbers than SELU has. Leave them out.")
        if node.op_type == "HardSigmoid" and not (
            _is_near(_number(attributes.get("alpha", 0.2)), 1 / 6)
            and _is_near(_number(attributes.get("beta", 0.5)), 0.5)
        ):
            raise self._refused(node, "is a hard sigmoid of another slope than torch's. Use another activation.")
        if node.op_type == "Gelu":
            approximate = attributes.get("approximate", "none")
            given["approximate"] = approximate if isinstance(approximate, str) else "none"
        if node.op_type in ("Softmax", "LogSoftmax"):
            given["dim"] = 1
        return self.module(kind, value, **given)

    def prelu(self, node: NodeProto, index: int) -> _Known:
        slope = self.constant(node, 1)
        if slope is None:
            raise self._refused(node, "has no slope. Export the network again.")
        return self.module("PReLU", self.value(node), num_parameters=slope.size)

    def clip(self, node: NodeProto, index: int) -> _Known | None:
        value = self.value(node)
        if self.pointwise(node, index) is None:
            return None
        lowest, highest = self.numbers(node, 1, "min"), self.numbers(node, 2, "max")
        match (lowest or (-math.inf,))[0], (highest or (math.inf,))[0]:
            case 0.0, 6.0:
                return self.module("ReLU6", value)
            case 0.0, high if high > 1e30:
                return self.module("ReLU", value)
            case low, high:
                return self.module("Hardtanh", value, min_val=float(low), max_val=float(high))

    def dropout(self, node: NodeProto, index: int) -> _Known:
        value = self.value(node)
        # Since operator set 12 the ratio is an input.
        ratio = self.numbers(node, 1, "ratio")
        p = short_number(ratio[0]) if ratio else 0.5
        if not 0 <= p <= 1:
            raise self._refused(node, f"has the ratio {p:g}, and it must be from 0 to 1. Export the network again.")
        return self.module("Dropout", value, p=p)

    def identity(self, node: NodeProto, index: int) -> _Known:
        return self.known[node.input[0]]

    def flatten(self, node: NodeProto, index: int) -> _Known:
        value = self.value(node)
        axis = int(_number(self.attributes(node).get("axis", 1)))
        if axis not in (1, 1 - len(value.shape) - 1):
            raise self._refused(node, "flattens other axes than those after the batch. Use nn.Flatten().")
        return self.flat(value)

    def reshape(self, node: NodeProto, index: int) -> _Known | None:
        if isinstance(self.known[node.input[0]], Constant):
            return self.known[node.input[0]]
        value, wanted = self.value(node), self.constant(node, 1)
        shape = self._integers(node, wanted)
        total = math.prod(value.shape)
        if len(shape) == 4 and value.source == IMAGE and value.is_channels_last and tuple(shape[1:]) == INPUT_SHAPE:
            return replace(value, is_channels_last=False)
        norm = self.only_consumer(node.output[0], "InstanceNormalization")
        if norm is not None and len(shape) == 3 and len(value.shape) == 3 and not value.is_channels_last:
            return self._group_norm_of_instances(node, value, shape, norm)
        # -1 stands for the rest: the batch in one place, what is left of an image in another.
        is_rest = shape[-1:] in ((-1,), (total,)) or (shape[-1:] == (0,) and len(value.shape) == 1)
        if len(shape) == 2 and is_rest and self._is_batch(shape[0], shape[1] == total):
            return self.flat(value)
        if len(shape) == len(value.shape) + 1 and self._is_batch(shape[0], -1 not in shape[1:]):
            order = (*value.shape[1:], value.shape[0]) if value.is_channels_last else value.shape
            if all(side in (0, -1, had) for side, had in zip(shape[1:], order, strict=True)):
                return value
        raise self._refused(node, "reshapes values other than by flattening them. Leave it out.")

    def _is_batch(self, side: int | None, may_be_rest: bool) -> bool:
        return side is None or side == 0 or side >= 1 or (side == -1 and may_be_rest)

    def _group_norm_of_instances(
        self, node: NodeProto, value: _Value, shape: Sequence[int | None], norm: int
    ) -> _Known | None:
        """torch's export of a group norm: a map with each group as one channel, an instance norm, and scales."""
        groups, nodes = shape[1], self.graph.node
        steps = [norm]
        for operator in ("Reshape", "Mul", "Add"):
            after = self.only_consumer(nodes[steps[-1]].output[0], operator)
            if after is None:
                break
            steps.append(after)
        scales = self.constant(nodes[norm], 1), self.constant(nodes[norm], 2)
        is_plain = all(
            scale is not None and set(scale.numbers()) == {number}
            for scale, number in zip(scales, (1.0, 0.0), strict=True)
        )
        if len(steps) not in (2, 4) or groups is None or groups < 1 or not is_plain:
            raise self._refused(node, "begins a norm that is not known. Use nn.GroupNorm.")
        for place in steps[2:]:
            constants = [self.known.get(name) for name in nodes[place].input]
            found = [constant for constant in constants if isinstance(constant, Constant)]
            if len(found) != 1 or found[0].without_leading_ones != _without_leading_ones((value.shape[0], 1, 1)):
                raise self._refused(node, "begins a norm that is not known. Use nn.GroupNorm.")
        # The shape that the map gets back may be computed between these.
        self.skipped.update(steps)
        self.known[nodes[steps[-1]].output[0]] = self.module(
            "GroupNorm",
            value,
            num_groups=groups,
            num_channels=value.shape[0],
            eps=self._epsilon(nodes[norm]),
            affine=len(steps) == 4,
        )
        return None

    def squeeze(self, node: NodeProto, index: int) -> _Known:
        known = self.known[node.input[0]]
        if isinstance(known, Constant):
            return known.reshaped(()) if known.size == 1 else known
        value, axes = self.value(node), self.numbers(node, 1, "axes")
        rank = len(value.shape) + 1
        order = (*value.shape[1:], value.shape[0]) if value.is_channels_last else value.shape
        places = (
            {int(axis) % rank for axis in axes} if axes else {axis for axis in range(1, rank) if order[axis - 1] == 1}
        )
        if 0 in places or any(order[place - 1] != 1 for place in places):
            raise self._refused(node, "removes an axis that has more than one position. Flatten the values instead.")
        left = [side for axis, side in enumerate(order, start=1) if axis not in places]
        if len(left) == len(order):
            return value
        flat = self.flat(value)
        # Further axes of one position are removed by a further operator.
        return flat if len(left) == 1 else replace(flat, shape=tuple(left))

    def unsqueeze(self, node: NodeProto, index: int) -> _Known:
        known = self.known[node.input[0]]
        if isinstance(known, Constant):
            return known.reshaped((1, *known.shape))
        raise self._refused(node, "adds an axis to values. Leave it out.")

    def transpose(self, node: NodeProto, index: int) -> _Known:
        known = self.known[node.input[0]]
        order = self.attributes(node).get("perm")
        if isinstance(known, Constant):
            rank = len(known.shape)
            places = [int(axis) for axis in order] if isinstance(order, tuple) else list(range(rank))[::-1]
            if sorted(places) != list(range(rank)):
                raise self._refused(node, "has axes that do not fit. Export the network again.")
            return known.reshaped(tuple(known.shape[place] for place in places))
        value = self.value(node)
        if isinstance(order, tuple) and order == tuple(range(len(value.shape) + 1)):
            return value
        if order != ((0, 3, 1, 2) if value.is_channels_last else (0, 2, 3, 1)) or len(value.shape) != 3:
            raise self._refused(node, _AXES[0].lower() + _AXES[1:])
        return replace(value, is_channels_last=not value.is_channels_last)

    def linear(self, node: NodeProto, index: int) -> _Known:
        value, weight = self.value(node, shaped=1), self.weight(node, 1)
        attributes = self.attributes(node)
        numbers = [_number(attributes.get(name, default)) for name, default in (("alpha", 1), ("beta", 1))]
        if len(weight.shape) != 2 or numbers != [1.0, 1.0] or attributes.get("transA", 0):
            raise self._refused(node, "is no linear layer of torch. Use nn.Linear.")
        outputs, inputs = weight.shape if attributes.get("transB", 0) else weight.shape[::-1]
        return self.module(
            "Linear",
            value,
            in_features=inputs,
            out_features=outputs,
            bias=node.op_type == "Gemm" and self.constant(node, 2) is not None,
        )

    def concat(self, node: NodeProto, index: int) -> _Known:
        known = [self.known[name] for name in node.input]
        constants = [part for part in known if isinstance(part, Constant)]
        if len(constants) == len(known):
            joined = tuple(side for part in constants for side in self._integers(node, part))
            return Constant("", (len(joined),), joined)
        values = [self.value(node, place) for place in range(len(known))]
        shapes = {(value.shape[1:], value.is_channels_last) for value in values}
        rank = len(values[0].shape) + 1
        axis = int(_number(self.attributes(node).get("axis", 1))) % rank
        if len(shapes) > 1 or axis != (rank - 1 if values[0].is_channels_last else 1):
            raise self._refused(node, "concatenates other than the channels of maps of one size. Use dim=1.")
        if len(values) == 1:
            return values[0]
        channels = sum(value.shape[0] for value in values)
        return self.add("Concat", values, (channels, *values[0].shape[1:]), {})

    def literal(self, node: NodeProto, index: int) -> _Known:
        for part in node.attribute:
            if part.name == "value":
                return as_constant(part.t, node.output[0])
            found = attribute_numbers(part)
            if part.name.startswith("value_") and isinstance(found, int | float):
                return Constant(node.output[0], (), (found,))
            if part.name.startswith("value_") and isinstance(found, tuple):
                return Constant(node.output[0], (len(found),), found)
        raise self._refused(node, "has no value that can be read. Export the network again.")

    # Shapes that are computed: older exporters write view(x.size(0), -1) so.

    def shape(self, node: NodeProto, index: int) -> _Known:
        value = self.value(node)
        order = (*value.shape[1:], value.shape[0]) if value.is_channels_last else value.shape
        sides = (None, *order)
        attributes = self.attributes(node)
        end = attributes.get("end")
        sides = sides[int(_number(attributes.get("start", 0))) : None if end is None else int(_number(end))]
        return Constant("", (len(sides),), sides)

    def gather(self, node: NodeProto, index: int) -> _Known:
        sides, places = self._integers(node, self.constant(node, 0)), self._integers(node, self.constant(node, 1))
        shape = self.constant(node, 1)
        if any(place is None or not -len(sides) <= place < len(sides) for place in places):
            raise self._refused(node, "takes a part of a shape that does not exist. Export the network again.")
        found = tuple(sides[place] for place in places if place is not None)
        return Constant("", shape.shape if shape else (), found)

    def slice(self, node: NodeProto, index: int) -> _Known:
        if not isinstance(self.known[node.input[0]], Constant):
            raise self._refused(node, "takes a part of the values. Leave it out.")
        sides = self._integers(node, self.constant(node, 0))
        starts, ends, steps = self.numbers(node, 1, "starts"), self.numbers(node, 2, "ends"), self.numbers(node, 4)
        if starts is None or ends is None or len(starts) != 1 or len(ends) != 1 or steps not in (None, (1,)):
            raise self._refused(node, "takes a part of a shape in a way that is not known. Export the network again.")
        found = sides[int(starts[0]) : int(ends[0])]
        return Constant("", (len(found),), found)

    def cast(self, node: NodeProto, index: int) -> _Known:
        known = self.known[node.input[0]]
        # Between floating-point numbers nothing changes; 6 and 7 are int32 and int64.
        to = self.attributes(node).get("to")
        if (isinstance(known, Constant) and to in (*_FLOATS, 6, 7)) or to in _FLOATS:
            return known
        raise self._refused(node, "changes values into another type. Leave it out.")

    def _integers(self, node: NodeProto, constant: Constant | None) -> tuple[int | None, ...]:
        if constant is None:
            raise self._refused(node, "lacks an input. Export the network again.")
        return constant.integers()


_Read: TypeAlias = Callable[["_Reader", "NodeProto", int], "_Known | None"]
# Each activation of ONNX: torch's class, and its attributes by ONNX's names: torch's name and ONNX's default.
_ACTIVATIONS: Mapping[str, tuple[str, Mapping[str, tuple[str, float]]]] = {
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
_OPERATORS: Mapping[str, _Read] = {
    **dict.fromkeys(_ACTIVATIONS, _Reader.activation),
    **dict.fromkeys(("Sub", "Div", "Mul", "Add", "Erf", "Pow", "Min", "Max"), _Reader.arithmetic),
    "Sum": _Reader.sum,
    "Conv": _Reader.convolution,
    "MaxPool": _Reader.pool,
    "AveragePool": _Reader.pool,
    "Pad": _Reader.pad,
    "GlobalAveragePool": _Reader.global_pool,
    "GlobalMaxPool": _Reader.global_pool,
    "ReduceMean": _Reader.reduce,
    "ReduceMax": _Reader.reduce,
    "BatchNormalization": _Reader.batch_norm,
    "GroupNormalization": _Reader.group_norm,
    "LayerNormalization": _Reader.layer_norm,
    "InstanceNormalization": _Reader.instance_norm,
    "PRelu": _Reader.prelu,
    "Clip": _Reader.clip,
    "Dropout": _Reader.dropout,
    "Identity": _Reader.identity,
    "Flatten": _Reader.flatten,
    "Reshape": _Reader.reshape,
    "Squeeze": _Reader.squeeze,
    "Unsqueeze": _Reader.unsqueeze,
    "Transpose": _Reader.transpose,
    "Gemm": _Reader.linear,
    "MatMul": _Reader.linear,
    "Concat": _Reader.concat,
    "Constant": _Reader.literal,
    "Shape": _Reader.shape,
    "Gather": _Reader.gather,
    "Slice": _Reader.slice,
    "Cast": _Reader.cast,
}


def _as_exported(model: ModelProto, nodes: Sequence[ModuleNode], reader: _Reader) -> tuple[ModuleNode, ...] | None:
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


# Arguments that operators do not tell: a ceil_mode is told by the shape.
_UNTOLD = frozenset({"num_splits", "inplace", "ceil_mode", "eps"})
_ALIKE = {"Dropout2d": "Dropout", "GhostBatchNorm2d": "BatchNorm2d"}


def _key(node: ModuleNode) -> tuple[object, ...]:
    """What operators tell of a node."""
    arguments = {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in node.arguments.items()
        if name not in _UNTOLD
    }
    return _ALIKE.get(node.kind, node.kind), node.inputs, arguments


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _is_near(number: float, wanted: float) -> bool:
    return abs(number - wanted) < 1e-5


def _count(length: int, extent: int, stride: int) -> int:
    """Number of windows along an axis."""
    return (length - extent) // stride + 1


def _ceiled(side: int, extent: int, stride: int, padding: int) -> int:
    """Number of windows of a pool with torch's ceil_mode."""
    count = -(-(side + 2 * padding - extent) // stride) + 1
    return count - ((count - 1) * stride >= side + padding)


def _without_leading_ones(shape: Sequence[int]) -> tuple[int, ...]:
    found = list(shape)
    while found and found[0] == 1:
        found.pop(0)
    return tuple(found)
