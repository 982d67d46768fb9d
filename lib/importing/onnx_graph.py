"""The graph of an ONNX file, read operator by operator: its values, its constants, and the modules found so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from lib.design.layers import INPUT_SHAPE
from lib.importing.module_graph import IMAGE, Argument, ImportSourceError, ModuleNode
from lib.importing.onnx_constants import Constant, as_constant, attribute_numbers, short_number
from lib.importing.torch_modules import ArgumentsError, bound_arguments, output_shape
from lib.text.untrusted_text import visible

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

MAX_NODES = 3_000
_LONGEST_NAME = 60
_MAX_OUTPUTS = 100_000_000
FLOATS = (1, 10, 11)  # float32, float16 and float64 in ONNX's numbering of types
_ANY_SIZE = "The file leaves the size of the image open; it is read for 28×28 pixels."


@dataclass(frozen=True)
class Value:
    """An output for one image: `source` is the node that computes it, `shape` is without the batch.

    `is_channels_last` says that its axes stand as (height, width, channels) in the file; `shape` is in torch's order
    all the same.
    """

    source: int
    shape: tuple[int, ...]
    is_channels_last: bool = False
    # Zeros around a map that are not yet part of a module: (height, width) at the begin and at the end.
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)


Known: TypeAlias = Value | Constant
# Reads one operator, whose place is given: returns its output, or None if it has stored that itself.
Read: TypeAlias = Callable[["GraphReader", "NodeProto", int], "Known | None"]


class GraphReader:
    """Follows the operators of a graph in their order. Raises ImportSourceError."""

    def __init__(self, model: ModelProto, operators: Mapping[str, Read]) -> None:
        self.operators = operators
        self.graph = model.graph
        self.opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
        self.nodes: list[ModuleNode] = []
        self.shapes: list[tuple[int, ...]] = []
        self.notes: list[str] = []
        self.skipped: set[int] = set()
        # Names of the weights that a module has; a second one would share them.
        self.used_weights: set[str] = set()
        self.known: dict[str, Known] = {}
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
        if kind.elem_type not in FLOATS:
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
        self.known[inputs[0].name] = Value(IMAGE, INPUT_SHAPE, is_channels_last)

    def nodes_to_the_output(self) -> tuple[ModuleNode, ...]:
        """The nodes that the output depends on, in order; it is the output of the last one."""
        end = self.known.get(self.output)
        if not isinstance(end, Value):
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
        read = self.operators.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        if read is None:
            raise self.refused(
                node,
                "is not available here. Replace it by a layer that the notation has, or leave it out.",
            )
        for name in node.input:
            if name and name not in self.known:
                raise self.refused(node, "takes a value that nothing computes before it. Export the network again.")
        try:
            found = read(self, node, index)
            if found is not None:
                self.known[node.output[0]] = found
        except ArgumentsError as error:
            raise ImportSourceError(f"{self.where(node)}: {error}") from error
        except ImportSourceError:
            raise
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:
            # Attributes and inputs may be of any number and type.
            raise self.refused(node, "has attributes or inputs that do not fit. Export the network again.") from error

    def where(self, node: NodeProto) -> str:
        name = shown(node.name)
        kind = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        return f"Operator {shown(kind)}" + (f" “{name}”" if name else "")

    def refused(self, node: NodeProto, sentence: str) -> ImportSourceError:
        return ImportSourceError(f"{self.where(node)} {sentence}")

    def attributes(self, node: NodeProto) -> dict[str, object]:
        return {part.name: attribute_numbers(part) for part in node.attribute}

    def value(self, node: NodeProto, place: int = 0, *, shaped: int | None = None) -> Value:
        """An input that depends on the image; `shaped` is the number of axes that it must have, without the batch."""
        found = self.known.get(node.input[place]) if len(node.input) > place else None
        if not isinstance(found, Value):
            raise self.refused(node, "does not take what the layers before it compute. Export the network again.")
        if any(found.pads) and node.op_type not in ("Conv", "AveragePool"):
            raise self.refused(
                node, "follows a padding with zeros, which is available for a convolution or an average pool alone."
            )
        if shaped is not None and (len(found.shape) != shaped or found.is_channels_last):
            what = "a map with channels first" if shaped == 3 else "flat values"
            raise self.refused(node, f"takes {what}, and something else reaches it. Export the network as torch does.")
        return found

    def constant(self, node: NodeProto, place: int) -> Constant | None:
        """An input that is a constant; None if there is no such input. Raises ImportSourceError for a value."""
        if len(node.input) <= place or not node.input[place]:
            return None
        found = self.known[node.input[place]]
        if not isinstance(found, Constant):
            raise self.refused(node, "has weights that are computed. Only weights that are in the file can be read.")
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

    def epsilon(self, node: NodeProto) -> float:
        """What a norm adds to the variance."""
        return short_number(number(self.attributes(node).get("epsilon", 1e-5)))

    def weight(self, node: NodeProto, place: int) -> Constant:
        """The main weight of a module. Raises ImportSourceError if another module has it, too."""
        found = self.constant(node, place)
        if found is None:
            raise self.refused(node, "has no weights. Export the network again.")
        # Exporters store equal biases and norms once, but equal random weights are shared ones.
        if found.name in self.used_weights:
            raise self.refused(
                node, "has the weights of a layer before it. Shared weights cannot be written; give each its own."
            )
        self.used_weights.add(found.name)
        return found

    def add(
        self, kind: str, inputs: Sequence[Value], shape: tuple[int, ...], arguments: Mapping[str, Argument]
    ) -> Value:
        """Add a node. Raises ImportSourceError if it has more outputs than any network for digits."""
        if math.prod(shape) > _MAX_OUTPUTS:
            raise ImportSourceError(f"{kind} has more than {_MAX_OUTPUTS:,} outputs. Export a smaller network.")
        self.nodes.append(ModuleNode(kind, tuple(value.source for value in inputs), arguments))
        self.shapes.append(shape)
        return Value(len(self.nodes) - 1, shape, inputs[0].is_channels_last)

    def module(self, kind: str, value: Value, **given: Argument) -> Value:
        """Add a module of torch. Raises ArgumentsError if it does not fit."""
        arguments = bound_arguments(kind, (), given)
        return self.add(kind, [value], output_shape(kind, arguments, value.shape), arguments)

    def flat(self, value: Value) -> Value:
        if len(value.shape) == 1:
            return value
        return replace(self.module("Flatten", value), is_channels_last=False)

    def only_consumer(self, name: str, operator: str) -> int | None:
        """The place of the one node that takes a value, if it is this operator; else None."""
        places = self.consumers.get(name, [])
        if len(places) == 1 and places[0] >= 0 and self.graph.node[places[0]].op_type == operator:
            return places[0]
        return None

    def integers(self, node: NodeProto, constant: Constant | None) -> tuple[int | None, ...]:
        if constant is None:
            raise self.refused(node, "lacks an input. Export the network again.")
        return constant.integers()


def shown(text: str | bytes) -> str:
    # Text that is no UTF-8 is left as bytes by protobuf.
    text = visible(text if isinstance(text, str) else text.decode("utf-8", "replace")).strip()
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
