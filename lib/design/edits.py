"""Actions on one layer of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeAlias

from lib.design.canonical_form import canonical
from lib.design.layers import (
    MAX_LAYERS,
    Activation,
    Architecture,
    Branch,
    Convolution,
    Dropout,
    Fork,
    FullyConnected,
    Join,
    Layer,
    MaxPool,
    Normalization,
    last_weights,
    logits_layer,
    pair,
)
from lib.design.operations import OUTPUT_SHAPE, State, advance

ACTIONS = (
    "Move up",
    "Move down",
    "Add a convolution above",
    "Add a max-pool above",
    "Add a dropout above",
    "Add the input to this layer",
    "No padding",
    "Pad to keep the size",
    "Kernel 1×1",
    "Kernel 3×3",
    "Kernel 5×5",
    "Without batch norm",
    "With batch norm",
    "Norm before the activation",
    "Group norm",
    "ReLU",
    "GELU",
    "Neither activation nor norm",
    "Without bias",
    "With bias",
    "Depthwise",
    "All channels",
    "Whole channels",
    "Single values",
    "Remove",
)
DEFAULT_CHANNELS = 8
DEFAULT_DROPOUT = Dropout(0.05)

# (start, stop, replacement): the action replaces layers[start:stop].
_Splice: TypeAlias = tuple[int, int, tuple[Layer, ...]]


def available_actions(architecture: Architecture) -> list[list[str]]:
    """For each layer, the actions that change a valid network into another valid one."""
    layers = architecture.layers
    logits = logits_layer(architecture)
    before: list[State | None] = [State()]
    for index, layer in enumerate(layers):
        before.append(_advanced(before[-1], layer, index == logits))
    known: dict[tuple[int, State], bool] = {}

    def fits(index: int, state: State | None) -> bool:
        """Whether layers[index:] can follow and end in the logits."""
        if state is None or index == len(layers):
            return state is not None and not state.forks and state.values.shape == OUTPUT_SHAPE
        key = (index, state)
        if key not in known:
            known[key] = fits(index + 1, _advanced(state, layers[index], index == logits))
        return known[key]

    def is_available(index: int, action: str) -> bool:
        state = before[index]
        channels = state.values.shape[0] if state else 0
        start, stop, replacement = _splice(layers, index, action, channels, is_logits=index == logits)
        count = len(layers) + len(replacement) - (stop - start)
        if replacement == layers[start:stop] or not 1 <= count <= MAX_LAYERS:
            return False
        state = before[start]
        # The last layer with weights outputs the logits, and it may be another one now.
        last = -1 if logits >= stop else last_weights(replacement)
        for place, layer in enumerate(replacement):
            state = _advanced(state, layer, place == last)
        return fits(stop, state)

    return [[action for action in ACTIONS if is_available(index, action)] for index in range(len(layers))]


def apply(architecture: Architecture, index: int, action: str) -> Architecture:
    """The network after one of ACTIONS on layer `index`; the same network if the action does not apply to the layer."""
    layers = architecture.layers
    state: State | None = State()
    logits = logits_layer(architecture)
    for place, layer in enumerate(layers[:index]):
        state = _advanced(state, layer, place == logits)
    channels = state.values.shape[0] if state else 0
    start, stop, replacement = _splice(layers, index, action, channels, is_logits=index == logits)
    return canonical(Architecture(layers[:start] + replacement + layers[stop:]))


def set_width(architecture: Architecture, index: int, width: int) -> Architecture:
    """The network with `width` channels or features in layer `index`. Raises ValueError if the layer has no width.

    Depthwise convolutions that follow keep one group for each channel.
    """
    layers = list(architecture.layers)
    layer = layers[index]
    match layer:
        case Convolution():
            layers[index] = replace(layer, channels=width, groups=_fitting_groups(layer, width))
        case FullyConnected():
            layers[index] = replace(layer, features=width)
        case _:
            raise ValueError(f"layer {index} has no width")
    before = layer.channels if isinstance(layer, Convolution) else 0
    for place in range(index + 1, len(layers)):
        following = layers[place]
        if isinstance(following, Convolution):
            if following.groups == following.channels == before > 1:
                layers[place] = replace(following, channels=width, groups=width)
                continue
            break
    return Architecture(tuple(layers))


def _fitting_groups(layer: Convolution, width: int) -> int:
    """The largest number of groups up to that of the layer that divides both numbers of channels."""
    return next(groups for groups in range(layer.groups, 0, -1) if not width % groups and not layer.groups % groups)


def _splice(layers: tuple[Layer, ...], index: int, action: str, channels: int, is_logits: bool) -> _Splice:
    """The layers that an action on layer `index` replaces. If it does not apply, it replaces the layer by itself.

    `channels` are those that reach the layer.
    """
    layer = layers[index]
    match action:
        case "Move up" if index > 0:
            return index - 1, index + 1, (layer, layers[index - 1])
        case "Move down" if index < len(layers) - 1:
            return index, index + 2, (layers[index + 1], layer)
        case "Add a convolution above":
            return index, index, (Convolution(_channels_before(layers[:index])),)
        case "Add a max-pool above":
            return index, index, (MaxPool(),)
        case "Add a dropout above":
            return index, index, (DEFAULT_DROPOUT,)
        case "Remove" if isinstance(layer, Fork | Branch | Join):
            return _without_branches(layers, index)
        case "Remove":
            return index, index + 1, ()
        case "Add the input to this layer" if isinstance(layer, Convolution):
            return index, index + 1, (Fork("add"), layer, Join())
    return index, index + 1, (_changed(layer, action, channels, is_logits),)


def _changed(layer: Layer, action: str, channels: int, is_logits: bool) -> Layer:
    """The layer after an action on it alone; itself if the action does not apply."""
    match action, layer:
        case "No padding", Convolution() if layer.padding_pixels != (0, 0):
            return replace(layer, padding=0)
        case "Pad to keep the size", Convolution():
            padded = replace(layer, padding=None)
            return layer if padded.padding_pixels == layer.padding_pixels else padded
        case "Kernel 1×1", Convolution():
            return replace(layer, kernel_size=1)
        case "Kernel 3×3", Convolution():
            return replace(layer, kernel_size=3)
        case "Kernel 5×5", Convolution():
            return replace(layer, kernel_size=5)
        case "Without bias", Convolution() | FullyConnected():
            return replace(layer, bias=False)
        case "With bias", Convolution() | FullyConnected():
            return replace(layer, bias=True)
        case "Depthwise", Convolution() if pair(layer.kernel_size) != (1, 1) and layer.channels % channels == 0:
            return replace(layer, groups=channels)
        case "All channels", Convolution():
            return replace(layer, groups=1)
        case "Whole channels", Dropout():
            return replace(layer, whole_channels=True)
        case "Single values", Dropout():
            return replace(layer, whole_channels=False)
        case "ReLU", Activation():
            return Activation()
        case "GELU", Activation():
            return Activation("gelu")
    # Neither norm nor activation follows the logits.
    if is_logits:
        return layer
    match action, layer:
        case "Neither activation nor norm", Convolution():
            return replace(layer, activation=None, norm="after", normalization=Normalization())
        case "Neither activation nor norm", FullyConnected():
            return replace(layer, activation=None)
        case "ReLU", FullyConnected() | Convolution(activation=Activation()):
            return replace(layer, activation=Activation())
        case "GELU", FullyConnected() | Convolution(activation=Activation()):
            return replace(layer, activation=Activation("gelu"))
        case "ReLU", Convolution(activation=None):
            return replace(layer, activation=Activation(), norm="none")
        case "With batch norm", Convolution(activation=None):
            return replace(layer, activation=Activation())
        case "Without batch norm", Convolution(activation=Activation()):
            return replace(layer, norm="none", normalization=Normalization())
        case "With batch norm", Convolution():
            return replace(layer, norm="after", normalization=Normalization())
        case "Norm before the activation", Convolution(activation=Activation()):
            return replace(layer, norm="before")
        case "Group norm", Convolution(activation=Activation(), norm=norm) if norm != "none":
            groups = next(groups for groups in (4, 2, 3, 5, 1) if not layer.channels % groups)
            return replace(layer, normalization=Normalization("gn", groups))
    return layer


def _without_branches(layers: tuple[Layer, ...], index: int) -> _Splice:
    """Replace the branches that begin, separate or end at `index` by the layers of the first branch that has any."""
    depth, start = 0, index
    if not isinstance(layers[index], Fork):
        # Back to the fork that is open here.
        for start in range(index - 1, -1, -1):
            depth += isinstance(layers[start], Join) - isinstance(layers[start], Fork)
            if depth < 0:
                break
    branches: list[list[Layer]] = [[]]
    depth = 0
    for stop in range(start + 1, len(layers)):
        layer = layers[stop]
        if depth == 0 and isinstance(layer, Join):
            kept = next((branch for branch in branches if branch), [])
            return start, stop + 1, tuple(kept)
        if depth == 0 and isinstance(layer, Branch):
            branches.append([])
            continue
        depth += isinstance(layer, Fork) - isinstance(layer, Join)
        branches[-1].append(layer)
    return index, index + 1, (layers[index],)


def _advanced(state: State | None, layer: Layer, is_logits: bool) -> State | None:
    return None if state is None else advance(state, layer, is_logits=is_logits)


def _channels_before(layers: Sequence[Layer]) -> int:
    """Channels for a new convolution: those of the last convolution before it."""
    return next((layer.channels for layer in reversed(layers) if isinstance(layer, Convolution)), DEFAULT_CHANNELS)
