"""The torch modules that a network consists of, with every shape known before torch builds them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Literal, TypeAlias

from lib.design.layers import (
    CLASSES,
    INPUT_SHAPE,
    MAX_NESTED,
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
    JoinKind,
    Layer,
    MaxPool,
    Normalization,
    Pair,
    Shape,
    logits_layer,
    pair,
)
from lib.text.formatting import shape_text

# Ten logits, as a map of one pixel.
OUTPUT_SHAPE: Shape = (CLASSES, 1, 1)
# Index of the image among the inputs of an operation.
IMAGE = -1

OperationKind: TypeAlias = Literal[
    "Conv2d",
    "BatchNorm2d",
    "BatchNorm1d",
    "GhostBatchNorm2d",
    "GroupNorm",
    "LayerNorm",
    "LayerNorm2d",
    "InstanceNorm2d",
    "ReLU",
    "ReLU6",
    "LeakyReLU",
    "PReLU",
    "ELU",
    "CELU",
    "SELU",
    "GELU",
    "SiLU",
    "Mish",
    "Hardswish",
    "Softplus",
    "Tanh",
    "Sigmoid",
    "MaxPool2d",
    "AvgPool2d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "Dropout",
    "Dropout2d",
    "Flatten",
    "Linear",
    "Add",
    "Concat",
]
_NORM_KINDS: dict[str, OperationKind] = {
    "bn": "BatchNorm2d",
    "gbn": "GhostBatchNorm2d",
    "gn": "GroupNorm",
    "ln": "LayerNorm",
    "ln2d": "LayerNorm2d",
    "in": "InstanceNorm2d",
}
_JOIN_KINDS: dict[JoinKind, OperationKind] = {"add": "Add", "cat": "Concat"}


@dataclass(frozen=True)
class Operation:
    """One nn module. Shapes are (channels, height, width), pairs are (height, width).

    - `layer`: index of its layer.
    - `inputs`: indexes of the operations whose outputs it takes; IMAGE is the image. Only joins have more than one.
    - `input_shape`: shape of the first input.
    - `kernel_size`, `stride`, `padding` and `dilation` also describe how a pool, or the flattening of a map, moves over
      its input, so receptive fields need no case for each kind.
    - `is_flat`: whether its output has no height and width in torch: (N, C) and not (N, C, 1, 1).
    - `groups`: of a convolution or a group norm; of a ghost batch norm, the parts of a batch.
    - `parameter`: the probability of a dropout, or the number of an activation.
    """

    kind: OperationKind
    layer: int
    inputs: tuple[int, ...]
    input_shape: Shape
    output_shape: Shape
    kernel_size: Pair = (1, 1)
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: int = 1
    ceil_mode: bool = False
    is_flat: bool = False
    groups: int = 1
    bias: bool = True
    parameter: float = 0.0


@dataclass(frozen=True)
class Values:
    """The values between two layers.

    `flat` says that a fully connected layer came before: no image is left, so only such layers, activations, norms and
    dropout may follow. `jump` is the distance of neighbouring positions in pixels of the image, (height, width).
    `is_unchanged` says that no layer has changed them since a branch began. `source` is the index of the operation that
    outputs them.
    """

    shape: Shape = INPUT_SHAPE
    flat: bool = False
    jump: Pair = (1, 1)
    is_unchanged: bool = False
    source: int = field(default=IMAGE, compare=False)


@dataclass(frozen=True)
class OpenFork:
    """Branches that are not joined yet: their common input, and the outputs of those that have ended."""

    join: JoinKind
    start: Values
    ends: tuple[Values, ...] = ()


@dataclass(frozen=True)
class State:
    """What reaches a layer: the values, and the forks that are open, innermost last."""

    values: Values = Values()
    forks: tuple[OpenFork, ...] = ()


def validate(architecture: Architecture) -> None:
    """Raise ArchitectureError if the layers do not fit together or do not end in ten numbers."""
    last = operations(architecture)[-1]
    shape = last.input_shape if last.kind == "Flatten" else last.output_shape
    if shape != OUTPUT_SHAPE:
        raise ArchitectureError(
            f"The network ends in {shape_text(shape)}; ten digits need {shape_text(OUTPUT_SHAPE)}. "
            f"Make the last convolution {CLASSES} channels wide and end with A, the global average pool."
        )


@lru_cache(maxsize=64)
def operations(architecture: Architecture) -> tuple[Operation, ...]:
    """The nn modules in order, starting from a 1×28×28 image. They end in a flat output: with Flatten, if necessary.

    Raises ArchitectureError if a layer does not fit to what reaches it, or if branches are not closed.
    """
    logits = logits_layer(architecture)
    state = State()
    steps: list[Operation] = []
    for index, layer in enumerate(architecture.layers):
        after = advance(state, layer, is_logits=index == logits)
        if after is None:
            raise _misfit(layer, index, state, is_logits=index == logits)
        found = _layer_operations(layer, index, state, after.values, len(steps), is_logits=index == logits)
        steps += found
        if found:
            after = State(replace(after.values, source=len(steps) - 1), after.forks)
        state = after
    if state.forks:
        place, token = _unclosed(architecture)
        raise ArchitectureError(f"The branches of layer {place}, “{token}”, have no end. Add a ) where they join.")
    if not state.values.flat:
        steps.append(_flatten(len(architecture.layers) - 1, state.values))
    return tuple(steps)


def advance(state: State, layer: Layer, *, is_logits: bool) -> State | None:
    """The state after a layer, or None if the layer cannot follow."""
    values, forks = state.values, state.forks
    match layer:
        case Fork(join=join):
            if len(forks) == MAX_NESTED:
                return None
            start = replace(values, is_unchanged=True)
            return State(start, (*forks, OpenFork(join, start)))
        case Branch():
            if not forks:
                return None
            fork = replace(forks[-1], ends=(*forks[-1].ends, values))
            return State(fork.start, (*forks[:-1], fork))
        case Join():
            joined = _joined(_ends(state), forks[-1].join) if forks else None
            return None if joined is None else State(joined, forks[:-1])
    after = _after(values, layer, is_logits=is_logits)
    if after is None:
        return None
    return State(replace(after, is_unchanged=False) if after.is_unchanged else after, forks)


def _after(values: Values, layer: Layer, *, is_logits: bool) -> Values | None:
    channels = values.shape[0]
    if values.flat and not isinstance(layer, FullyConnected | Dropout | Activation | Normalization):
        return None
    match layer:
        case Convolution(channels=out_channels, groups=groups):
            if channels % groups or out_channels % groups:
                return None
            after = _moved(values, out_channels, layer.extent, pair(layer.stride), layer.padding_pixels, False)
            has_norm = not is_logits and layer.activation is not None and layer.norm != "none"
            if after is None or (has_norm and not _can_normalize(layer.normalization, after)):
                return None
            return after
        case MaxPool() | AveragePool():
            kernel_size, padding = pair(layer.kernel_size), pair(layer.padding)
            # torch refuses a padding that is more than half the kernel.
            if any(2 * pad > kernel for pad, kernel in zip(padding, kernel_size, strict=True)):
                return None
            return _moved(values, channels, kernel_size, pair(layer.stride), padding, layer.ceil_mode)
        case GlobalAveragePool() | GlobalMaxPool():
            return replace(values, shape=(channels, 1, 1))
        case Flatten():
            return replace(values, shape=(channels * values.shape[1] * values.shape[2], 1, 1), flat=True)
        case FullyConnected(features=features):
            return replace(values, shape=(features, 1, 1), flat=True)
        case Normalization():
            return values if _can_normalize(layer, values) else None
        case Dropout() | Activation():
            return values
    raise AssertionError(layer)


def _moved(values: Values, channels: int, extent: Pair, stride: Pair, padding: Pair, ceil_mode: bool) -> Values | None:
    """The values after windows of `extent` have moved over them, or None if no window fits."""
    _, height, width = values.shape
    rows = output_size(height, extent[0], stride[0], padding[0], ceil_mode)
    columns = output_size(width, extent[1], stride[1], padding[1], ceil_mode)
    jump = (values.jump[0] * stride[0], values.jump[1] * stride[1])
    # Without `replace`, whose time counts: the menus of a network ask for thousands of these.
    return Values((channels, rows, columns), values.flat, jump, values.is_unchanged) if rows and columns else None


def output_size(size: int, extent: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Number of windows of `extent` on `size` pixels along one axis; 0 if none fits. As in torch.nn.MaxPool2d."""
    room = size + 2 * padding - extent
    if room < 0:
        return 0
    count = room // stride + 1
    # A window that is cut off must begin in the input or in the padding before it.
    if ceil_mode and room % stride and count * stride < size + padding:
        count += 1
    return count


def _can_normalize(normalization: Normalization, values: Values) -> bool:
    match normalization.name:
        case "gn":
            return not values.shape[0] % (normalization.groups or 1)
        case "gbn" | "ln2d":
            return not values.flat
        case "in":
            # One value has no variance.
            return not values.flat and values.shape[1:] != (1, 1)
    return True


def _ends(state: State) -> tuple[Values, ...]:
    """The outputs of the branches of the innermost fork; the input of a single branch is the second output."""
    fork = state.forks[-1]
    return (*fork.ends, state.values) if fork.ends else (state.values, fork.start)


def _joined(ends: tuple[Values, ...], join: JoinKind) -> Values | None:
    """The values after a join, or None if the branches do not fit together."""
    shapes = {end.shape if join == "add" else end.shape[1:] for end in ends}
    if len(shapes) > 1 or len({end.flat for end in ends}) > 1 or not _jumps_agree(ends) or _unchanged(ends) > 1:
        return None
    channels = ends[0].shape[0] if join == "add" else sum(end.shape[0] for end in ends)
    jump = (max(end.jump[0] for end in ends), max(end.jump[1] for end in ends))
    return Values((channels, *ends[0].shape[1:]), ends[0].flat, jump)


def _unchanged(ends: tuple[Values, ...]) -> int:
    """The number of empty branches."""
    return sum(end.is_unchanged for end in ends)


def _jumps_agree(ends: tuple[Values, ...]) -> bool:
    """Whether the same position means the same place in all branches. With one position the jump means nothing."""
    sizes = ends[0].shape[1:]
    return all(size == 1 or len({end.jump[axis] for end in ends}) == 1 for axis, size in enumerate(sizes))


def _layer_operations(
    layer: Layer, index: int, state: State, after: Values, count: int, *, is_logits: bool
) -> list[Operation]:
    """The nn modules of one layer; `count` is the number of those before."""
    values = state.values
    found: list[Operation] = []

    def add(kind: OperationKind, **arguments: object) -> None:
        before = found[-1].output_shape if found else values.shape
        arguments = {"inputs": (count + len(found) - 1 if found else values.source,), **arguments}
        arguments = {"input_shape": before, "output_shape": after.shape, "is_flat": after.flat, **arguments}
        found.append(Operation(kind, index, **arguments))  # type: ignore[arg-type]

    def add_activation(activation: Activation) -> None:
        kind: OperationKind = activation.spec.module  # type: ignore[assignment]
        add(kind, parameter=activation.parameter or 0.0)

    def add_norm(norm: Normalization) -> None:
        kind = "BatchNorm1d" if norm.name == "bn" and after.flat else _NORM_KINDS[norm.name]
        add(kind, groups=norm.groups or 1)

    match layer:
        case Convolution(activation=activation, norm=norm):
            add(
                "Conv2d",
                kernel_size=pair(layer.kernel_size),
                stride=pair(layer.stride),
                padding=layer.padding_pixels,
                dilation=layer.dilation,
                groups=layer.groups,
                bias=layer.bias,
            )
            if not is_logits and activation is not None:
                if norm == "before":
                    add_norm(layer.normalization)
                add_activation(activation)
                if norm == "after":
                    add_norm(layer.normalization)
        case MaxPool() | AveragePool():
            add(
                "MaxPool2d" if isinstance(layer, MaxPool) else "AvgPool2d",
                kernel_size=pair(layer.kernel_size),
                stride=pair(layer.stride),
                padding=pair(layer.padding),
                ceil_mode=layer.ceil_mode,
            )
        case GlobalAveragePool() | GlobalMaxPool():
            kind: OperationKind = "AdaptiveAvgPool2d" if isinstance(layer, GlobalAveragePool) else "AdaptiveMaxPool2d"
            add(kind, kernel_size=values.shape[1:])
        case Dropout(p=p, whole_channels=whole_channels):
            add("Dropout2d" if whole_channels else "Dropout", parameter=p)
        case Flatten():
            found.append(_flatten(index, values))
        case FullyConnected(activation=activation):
            if not values.flat:
                found.append(_flatten(index, values))
            add("Linear", bias=layer.bias)
            if not is_logits and activation is not None:
                add_activation(activation)
        case Activation():
            add_activation(layer)
        case Normalization():
            add_norm(layer)
        case Join():
            ends = _ends(state)
            add(
                _JOIN_KINDS[state.forks[-1].join],
                inputs=tuple(end.source for end in ends),
                input_shape=ends[0].shape,
            )
        case Fork() | Branch():
            pass
    return found


def _flatten(index: int, values: Values) -> Operation:
    channels, height, width = values.shape
    return Operation(
        "Flatten",
        index,
        (values.source,),
        values.shape,
        (channels * height * width, 1, 1),
        kernel_size=(height, width),
        is_flat=True,
    )


def _misfit(layer: Layer, index: int, state: State, *, is_logits: bool) -> ArchitectureError:
    """Say why a layer cannot follow, and what to do."""
    values, name = state.values, f"Layer {index + 1} ({layer.token})"
    channels, height, width = values.shape
    if isinstance(layer, Fork):
        return ArchitectureError(f"{name} is within more than {MAX_NESTED} other branches. Remove some of them.")
    if isinstance(layer, Branch | Join):
        # In brackets, a bracket would not be seen.
        return ArchitectureError(_misfit_of_branches(layer, f"Layer {index + 1}, “{layer.token}”,", state))
    if values.flat and isinstance(layer, Normalization):
        if layer.name == "gn":
            return ArchitectureError(_misfit_of_groups(name, channels, layer.groups or 1))
        return ArchitectureError(
            f"{name} needs an image, but the fully connected layers before it leave none. Move it before them, or "
            "choose N, a batch norm."
        )
    if values.flat:
        return ArchitectureError(
            f"{name} needs an image, but a fully connected layer comes before it and leaves none. Move it before the "
            "fully connected layers."
        )
    if isinstance(layer, Convolution) and channels % layer.groups:
        return ArchitectureError(_misfit_of_groups(name, channels, layer.groups))
    if isinstance(layer, Convolution) and layer.channels % layer.groups:
        return ArchitectureError(_misfit_of_groups(name, layer.channels, layer.groups))
    norm = layer.normalization if isinstance(layer, Convolution) else layer
    if isinstance(norm, Normalization):
        after = _after(values, layer, is_logits=True) if isinstance(layer, Convolution) else values
        if after is not None and norm.name == "gn":
            return ArchitectureError(_misfit_of_groups(name, after.shape[0], norm.groups or 1))
        if after is not None:
            return ArchitectureError(
                f"{name}: an instance norm needs more than one position, and this map has only one. Remove the norm, "
                "or choose another one."
            )
    # Only windows can be too large for an image.
    assert isinstance(layer, Convolution | MaxPool | AveragePool)
    rows, columns = layer.extent if isinstance(layer, Convolution) else pair(layer.kernel_size)
    if not isinstance(layer, Convolution) and any(
        2 * pad > kernel for pad, kernel in zip(pair(layer.padding), (rows, columns), strict=True)
    ):
        return ArchitectureError(
            f"{name}: the padding of a pool may be at most half its size. Write p{min(rows, columns) // 2} or less."
        )
    return ArchitectureError(
        f"{name} needs {rows}×{columns} pixels, but only {height}×{width} "
        "reach it. Remove a pool or a v before it, or make its kernel smaller."
    )


def _unclosed(architecture: Architecture) -> tuple[int, str]:
    """Number, from 1, and text of the innermost fork that no join closes."""
    open_forks: list[tuple[int, str]] = []
    for number, layer in enumerate(architecture.layers, start=1):
        if isinstance(layer, Fork):
            open_forks.append((number, layer.token))
        elif isinstance(layer, Join):
            open_forks.pop()
    return open_forks[-1]


def _misfit_of_groups(name: str, channels: int, groups: int) -> str:
    return (
        f"{name}: {channels} channel{'s' * (channels != 1)} cannot be divided into {groups} groups. Choose a number of "
        f"groups that divides {channels}, or another number of channels."
    )


def _misfit_of_branches(layer: Branch | Join, name: str, state: State) -> str:
    if not state.forks:
        return f"{name} belongs to branches, but none are open here. Begin them with add( or cat(."
    ends = _ends(state)
    if isinstance(layer, Join) and _unchanged(ends) > 1:
        return f"{name} joins more than one empty branch. Put a layer into each of them but one."
    shapes = " and ".join(shape_text(shape) for shape in dict.fromkeys(end.shape for end in ends))
    if len({end.flat for end in ends}) > 1:
        return f"{name} joins an image with the output of a fully connected layer. Let all branches end in the same."
    if not _jumps_agree(ends):
        jumps = " and ".join(f"{jump[0]}" for jump in dict.fromkeys(end.jump for end in ends))
        return (
            f"{name} joins maps of {shapes} whose positions are {jumps} pixels apart. Give all branches the same "
            "strides."
        )
    if state.forks[-1].join == "add":
        return f"{name} cannot add {shapes}. Give all branches the same number of channels, strides and padding."
    return f"{name} cannot concatenate {shapes}. Give all branches the same strides and padding."
