"""Make an architecture of the modules that a file describes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lib.design.canonical_form import canonical
from lib.design.layers import (
    ACTIVATIONS,
    INPUT_SHAPE,
    MAX_CHANNELS,
    MAX_DROPOUT,
    MAX_KERNEL,
    MAX_LAYERS,
    Activation,
    Architecture,
    ArchitectureError,
    AveragePool,
    Branch,
    Convolution,
    Dropout,
    Flatten,
    Fork,
    FullyConnected,
    GlobalAveragePool,
    GlobalMaxPool,
    Join,
    Layer,
    MaxPool,
    Normalization,
    Pair,
    Shape,
    Size,
    pair,
    size,
)
from lib.design.operations import State, advance, validate
from lib.importing.module_graph import IMAGE, Argument, ImportSourceError, ModuleGraph, ModuleNode

_ACTIVATION_NAMES = {spec.module: name for name, spec in ACTIVATIONS.items()}
_SOFTMAX = ("LogSoftmax", "Softmax")
# Far more than an architecture may have layers, as several may be one layer.
_MAX_NODES = 4 * MAX_LAYERS
_MAX_DEPTH = 100
# Modules that neither count nor change a value here.
_TRANSPARENT = ("Identity", "Flatten")


@dataclass(frozen=True)
class ConvertedNetwork:
    """An architecture, and for each row of its `analyze`, the node of the file that it was made of.

    `notes` are sentences about what the architecture does not keep.
    """

    architecture: Architecture
    nodes: tuple[ModuleNode, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """A module of the file, or a layer of the structure of branches; a `Join` has both."""

    node: ModuleNode | None
    layer: Layer | None = None


def converted(graph: ModuleGraph) -> ConvertedNetwork:
    """Convert a network without a problem.

    Raises ImportSourceError if a part cannot be written in the notation, or the network does not end in ten numbers.
    """
    if not graph.nodes:
        raise ImportSourceError("The network has no layers. Give it at least one convolution.")
    if len(graph.nodes) > _MAX_NODES:
        raise ImportSourceError(f"The network has {len(graph.nodes):,} modules, and the limit is {_MAX_NODES:,}.")
    parts = _Structure(graph).sequence(len(graph.nodes) - 1, IMAGE)
    # A softmax at the end belongs to the loss.
    notes: list[str] = []
    while parts and parts[-1].node and parts[-1].node.kind in (*_SOFTMAX, *_TRANSPARENT):
        if parts.pop().node.kind in _SOFTMAX:  # type: ignore[union-attr]
            notes.append("The softmax at the end is left out: the loss computes it from the logits.")
    layers: list[Layer] = []
    kept: list[ModuleNode] = []
    state: State | None = State()
    for part in parts:
        shape = state.values.shape if state else INPUT_SHAPE
        layer = part.layer or (_layer(part.node, shape, notes) if part.node else None)
        if layer is None:
            continue
        layers.append(layer)
        if part.node and not isinstance(layer, Flatten):
            kept.append(part.node)
        state = None if state is None else advance(state, layer, is_logits=True)
    if len(layers) > MAX_LAYERS:
        raise ImportSourceError(f"The network has {len(layers)} layers, and the limit is {MAX_LAYERS}.")
    architecture = canonical(Architecture(tuple(layers)))
    try:
        validate(architecture)
    except ArchitectureError as error:
        raise ImportSourceError(str(error)) from error
    return ConvertedNetwork(architecture, tuple(kept), tuple(dict.fromkeys(notes)))


class _Structure:
    """Finds the branches of a graph. Each node belongs to one place; a second one means that branches cross."""

    def __init__(self, graph: ModuleGraph) -> None:
        self.nodes = _nested_concatenations(graph.nodes)
        self.places = {id(node): place for place, node in enumerate(self.nodes)}
        self.visited: set[int] = set()
        # For each node, as bits: the nodes through which every way from the image to it leads, itself included.
        # Bit 0 is the image.
        self.origins: list[int] = []
        for index, node in enumerate(self.nodes):
            common = -1
            for source in node.inputs:
                common &= 1 if source == IMAGE else self.origins[source]
            self.origins.append(common | 2 << index)

    def sequence(self, end: int, start: int, depth: int = 0) -> list[_Part]:
        """The modules after `start` up to `end`, with the structure of their branches."""
        pieces: list[list[_Part]] = []
        current = end
        while current != start:
            if current <= start or current in self.visited:
                raise _crossing(self.nodes[end])
            self.visited.add(current)
            node = self.nodes[current]
            if len(node.inputs) == 1:
                pieces.append([_Part(node)])
                current = node.inputs[0]
                continue
            if node.kind not in ("Add", "Concat"):
                raise _refused(node, f"{node.kind} of several values cannot be written in the notation. Leave it out.")
            if depth == _MAX_DEPTH:
                raise _refused(node, f"There are more than {_MAX_DEPTH} branches within each other. Use fewer.")
            # The last node through which every way to each of the branches leads.
            common = -1
            for source in node.inputs:
                common &= 1 if source == IMAGE else self.origins[source]
            fork = common.bit_length() - 2
            branches = [self.sequence(source, fork, depth + 1) for source in node.inputs]
            if node.kind == "Add":
                if sum(not branch for branch in branches) > 1:
                    raise _refused(node, "A value that is added to itself cannot be written in the notation.")
                branches = self._in_order_of_the_file(branches)
            parts = [_Part(None, Fork("add" if node.kind == "Add" else "cat"))]
            for number, branch in enumerate(branches):
                parts += ([_Part(None, Branch())] if number else []) + branch
            pieces.append([*parts, _Part(node, Join())])
            current = fork
        return [part for piece in reversed(pieces) for part in piece]

    def _in_order_of_the_file(self, branches: list[list[_Part]]) -> list[list[_Part]]:
        """The branches of an addition, whose order means nothing. An empty one stays where it is."""
        computed = sorted(
            (branch for branch in branches if branch),
            key=lambda branch: min(self.places[id(part.node)] for part in branch if part.node),
        )
        return [computed.pop(0) if branch else branch for branch in branches]


def _nested_concatenations(nodes: tuple[ModuleNode, ...]) -> tuple[ModuleNode, ...]:
    """The nodes, where a concatenation that names all parts of an earlier one takes that one instead.

    In a DenseNet, cat(a, b) is the input of c, and cat(a, b, c) that of the next layer: cat(cat(a, b), c).
    """
    earlier: dict[tuple[int, ...], int] = {}
    found: list[ModuleNode] = []
    for index, node in enumerate(nodes):
        inputs = node.inputs
        if node.kind == "Concat":
            for length in range(len(inputs) - 1, 1, -1):
                if inputs[:length] in earlier:
                    node = replace(node, inputs=(earlier[inputs[:length]], *inputs[length:]))
                    break
                if inputs[-length:] in earlier:
                    node = replace(node, inputs=(*inputs[:-length], earlier[inputs[-length:]]))
                    break
            earlier.setdefault(inputs, index)
        found.append(node)
    return tuple(found)


def _layer(node: ModuleNode, shape: Shape, notes: list[str]) -> Layer | None:
    """The layer of one module whose input has `shape`; None if it changes nothing here."""
    given = node.arguments
    match node.kind:
        case "Conv2d":
            return _convolution(node)
        case "Linear":
            features = _number(node, "out_features", MAX_CHANNELS)
            return FullyConnected(features, activation=None, bias=bool(given["bias"]))
        case "BatchNorm2d" | "BatchNorm1d" | "GhostBatchNorm2d" | "GroupNorm" | "LayerNorm" | "LayerNorm2d":
            return _normalization(node, shape)
        case "InstanceNorm2d":
            if given.get("affine") or given.get("track_running_stats"):
                raise _refused(
                    node, "Instance norm with weights or running statistics is not available. Leave both out."
                )
            return Normalization("in")
        case "MaxPool2d" | "AvgPool2d":
            return _pool(node)
        case "AdaptiveAvgPool2d" | "AdaptiveMaxPool2d":
            return _adaptive_pool(node, shape, notes)
        case "Dropout" | "Dropout2d":
            p = given["p"]
            assert isinstance(p, int | float)
            if not 0 <= 100 * p <= MAX_DROPOUT:
                raise _refused(node, f"A dropout of {100 * p:g} % is not available. Choose 0 to {MAX_DROPOUT} %.")
            return Dropout(round(float(p), 8), whole_channels=node.kind == "Dropout2d")
        case "Flatten":
            return Flatten()
        case "Identity":
            return None
        case kind if kind in _ACTIVATION_NAMES:
            return _activation(node)
        case kind if kind in _SOFTMAX:
            raise _refused(node, "A softmax that is not at the end cannot be written in the notation. Leave it out.")
    raise _refused(node, f"{node.kind} cannot be written in the notation. Replace it or leave it out.")


def _convolution(node: ModuleNode) -> Convolution:
    given = node.arguments
    if given.get("padding_mode", "zeros") != "zeros":
        raise _refused(node, f"Padding with {given['padding_mode']} is not available. Use padding_mode='zeros'.")
    dilation = pair(_size(node, "dilation"))
    if dilation[0] != dilation[1]:
        raise _refused(node, "A dilation that differs between the axes is not available. Use one number.")
    return Convolution(
        channels=_number(node, "out_channels", MAX_CHANNELS),
        kernel_size=_size(node, "kernel_size"),
        stride=_size(node, "stride"),
        dilation=dilation[0],
        padding=_size(node, "padding", least=0),
        activation=None,
        bias=bool(given["bias"]),
        groups=_number(node, "groups", MAX_CHANNELS),
    )


def _normalization(node: ModuleNode, shape: Shape) -> Normalization:
    given = node.arguments
    if given.get("affine", True) is False or given.get("elementwise_affine", True) is False:
        raise _refused(node, f"{node.kind} without weights is not available. Leave out affine=False.")
    if given.get("track_running_stats", True) is False:
        raise _refused(node, "Batch norm without running statistics is not available. Use track_running_stats=True.")
    match node.kind:
        case "GhostBatchNorm2d":
            return Normalization("gbn", _number(node, "num_splits", MAX_CHANNELS))
        case "GroupNorm":
            return Normalization("gn", _number(node, "num_groups", MAX_CHANNELS))
        case "LayerNorm2d":
            return Normalization("ln2d")
        case "LayerNorm":
            normalized = given["normalized_shape"]
            sides = normalized if isinstance(normalized, tuple) else (normalized,)
            channels, height, width = shape
            if sides not in ((channels, height, width), *([(channels,)] if (height, width) == (1, 1) else [])):
                raise _refused(
                    node, f"LayerNorm over {sides} is not available. Normalize over {shape}, or use GroupNorm."
                )
            return Normalization("ln")
    return Normalization()


def _activation(node: ModuleNode) -> Activation:
    name = _ACTIVATION_NAMES[node.kind]
    spec = ACTIVATIONS[name]
    given = node.arguments
    if node.kind == "PReLU" and given.get("num_parameters", 1) != 1:
        raise _refused(node, "PReLU with a number for each channel is not available. Use num_parameters=1.")
    if node.kind == "GELU" and given.get("approximate", "none") != "none":
        raise _refused(node, "GELU with approximate='tanh' is not available. Leave out the argument.")
    if spec.parameter is None:
        return Activation(name)
    number = given.get(spec.parameter, spec.default)
    assert isinstance(number, int | float)
    if not 0 <= number < 10_000:
        raise _refused(node, f"{spec.parameter}={number:g} is not available. Choose a number from 0 on.")
    return Activation(name, round(float(number), 6))


def _pool(node: ModuleNode) -> Layer:
    given = node.arguments
    if pair(_size(node, "dilation") if "dilation" in given else 1) != (1, 1):
        raise _refused(node, "A pool with dilation is not available. Leave out the argument.")
    padding = _size(node, "padding", least=0)
    if node.kind == "AvgPool2d" and given.get("divisor_override") is not None:
        raise _refused(node, "divisor_override is not available. Leave out the argument.")
    if node.kind == "AvgPool2d" and padding and given.get("count_include_pad") is False:
        raise _refused(node, "count_include_pad=False is not available. Leave out the argument.")
    kind = MaxPool if node.kind == "MaxPool2d" else AveragePool
    return kind(
        kernel_size=_size(node, "kernel_size"),
        stride=_size(node, "kernel_size" if given.get("stride") is None else "stride"),
        padding=padding,
        ceil_mode=bool(given.get("ceil_mode")),
    )


def _adaptive_pool(node: ModuleNode, shape: Shape, notes: list[str]) -> Layer | None:
    output = node.arguments["output_size"]
    sides = output if isinstance(output, tuple) else (output, output)
    is_average = node.kind == "AdaptiveAvgPool2d"
    if sides == (1, 1):
        return GlobalAveragePool() if is_average else GlobalMaxPool()
    wanted: list[int] = []
    for side, size_before in zip(sides, shape[1:], strict=False):
        wanted.append(size_before if side is None else int(side))
    if len(wanted) == 2 and all(
        side > 0 and before % side == 0 for before, side in zip(shape[1:], wanted, strict=True)
    ):
        windows = size(shape[1] // wanted[0], shape[2] // wanted[1])
        if windows == 1:
            notes.append(f"{node.kind}({output}) is left out: its input has this size already.")
            return None
        notes.append(f"{node.kind}({output}) of {shape[1]}×{shape[2]} positions is written as a pool of {windows}.")
        return AveragePool(windows, windows) if is_average else MaxPool(windows, windows)
    raise _refused(
        node, f"An adaptive pool from {shape[1]}×{shape[2]} to {output} is not available. Use a pool with a fixed size."
    )


def _number(node: ModuleNode, name: str, largest: int) -> int:
    number = node.arguments[name]
    if not isinstance(number, int) or not 1 <= number <= largest:
        raise _refused(node, f"{name}={number} is out of range. Choose a number from 1 to {largest:,}.")
    return number


def _size(node: ModuleNode, name: str, least: int = 1) -> Size:
    given: Argument = node.arguments[name]
    sides = given if isinstance(given, tuple) else (given, given)
    if len(sides) != 2 or not all(isinstance(side, int) and least <= side <= MAX_KERNEL for side in sides):
        raise _refused(node, f"{name}={given} is not available. Choose numbers from {least} to {MAX_KERNEL}.")
    checked: Pair = (int(sides[0]), int(sides[1]))  # type: ignore[arg-type]
    return size(*checked)


def _crossing(node: ModuleNode) -> ImportSourceError:
    return _refused(
        node,
        "Its skip connections cross each other, or a value is used again later. Only branches that begin at one place "
        "and join at another can be written in the notation.",
    )


def _refused(node: ModuleNode, sentence: str) -> ImportSourceError:
    return ImportSourceError(sentence, node.line)
